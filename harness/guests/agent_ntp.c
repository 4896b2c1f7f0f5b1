/*
 * The guest's own NTP client sets its clock, and its kernel then writes the RTC by itself (its 11-minute mode).
 *
 * Client and kernel are what they are in any Linux; only the server is ours, on the guest's loopback, and says what
 * time the host wants it to be. When the kernel has written is seen in its list of timers: no one reads the RTC.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OURS "/rtc-ntp/"
#define LOOK_MS 50
#define NS 1000000000LL
#define LONG_NS (60 * NS)         /* the kernel's next write is minutes away: it has just made one */
#define UNSEEN_NS (6 * NS)        /* it tries every 2 s; where its timers cannot be seen this has to do */
#define SINCE_1900 2208988800LL
#define PACKET 48

static char output[1500];
static int output_length;

static void put_stamp(uint8_t *to, int64_t seconds, uint64_t since_ns)
{
	uint64_t passed = now_ns() - since_ns;
	uint32_t whole = htonl(seconds + SINCE_1900 + passed / NS), part = htonl((passed % NS << 32) / NS);

	memcpy(to, &whole, 4);
	memcpy(to + 4, &part, 4);
}

/* Answers as a stratum-1 server, for ever: it is `seconds` when it begins. */
static void serve_time(int server, int64_t seconds)
{
	uint64_t since = now_ns();

	for (;;) {
		uint8_t query[256], reply[PACKET] = { 0 };
		struct sockaddr_in from;
		socklen_t size = sizeof(from);

		if (recvfrom(server, query, sizeof(query), 0, (void *)&from, &size) < PACKET)
			continue;
		put_stamp(reply + 32, seconds, since);            /* received */
		reply[0] = (query[0] & 0x38) | 4;                 /* its version, mode: server */
		reply[1] = 1;
		reply[2] = query[2];
		reply[3] = (uint8_t)-20;                          /* precision: a microsecond */
		memcpy(reply + 12, "PPS", 3);
		memcpy(reply + 24, query + 40, 8);                /* what the client sent as its time */
		put_stamp(reply + 16, seconds, since);            /* reference */
		put_stamp(reply + 40, seconds, since);            /* sent */
		sendto(server, reply, sizeof(reply), 0, (void *)&from, size);
	}
}

/* A socket on the loopback, which is brought up; -1 with errno. */
static int open_server(int *port)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(here);
	struct ifreq loopback = { .ifr_name = "lo" };
	int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (server < 0)
		return -1;
	ioctl(server, SIOCGIFFLAGS, &loopback);
	loopback.ifr_flags |= IFF_UP;
	ioctl(server, SIOCSIFFLAGS, &loopback);
	if (bind(server, (void *)&here, size) || getsockname(server, (void *)&here, &size)) {
		close(server);
		return -1;
	}
	*port = ntohs(here.sin_port);
	return server;
}

/* chronyd: the one that came with our image, else the guest's own. Does not return. */
static void become_client(int port)
{
	static const char *const places[] = { "/usr/sbin/chronyd", "/usr/bin/chronyd", "/sbin/chronyd", NULL };
	char source[80];
	/* No command socket, no state of an earlier life, and none left behind. */
	char *words[] = { OURS "ld.so", "--library-path", OURS "lib", OURS "chronyd", "-d", "-u", "root", source,
		"makestep 0.5 -1", "rtcsync", "cmdport 0", "bindcmdaddress /", "pidfile /run/rtc-ntp.pid", NULL };

	snprintf(source, sizeof(source), "server 127.0.0.1 port %d iburst minpoll 0 maxpoll 0", port);
	execv(words[0], words);
	for (int i = 0; places[i]; i++) {
		words[3] = (char *)places[i];
		execv(words[3], words + 3);
	}
	dprintf(2, "chronyd: errno %d", errno);
	_exit(127);
}

static int has_client(void)
{
	return !access(OURS "chronyd", X_OK) || !access("/usr/sbin/chronyd", X_OK) || !access("/usr/bin/chronyd", X_OK)
		|| !access("/sbin/chronyd", X_OK);
}

/* When the kernel will write the RTC next, on its clock of the time of day; 0 where it does not say. */
static long long next_write(long long *left_ns)
{
	static char timers[1 << 17];
	int fd = open("/proc/timer_list", O_RDONLY | O_CLOEXEC), length = 0, n;
	char *at;

	while (fd >= 0 && (n = read(fd, timers + length, sizeof(timers) - 1 - length)) > 0)
		length += n;
	if (fd >= 0)
		close(fd);
	timers[length] = 0;
	*left_ns = 0;
	/* " # expires at A-B nsecs [in C to D nsecs]" */
	if (!(at = strstr(timers, "sync_timer_callback")) || !(at = strstr(at, "expires at ")))
		return 0;
	long long when = strtoll(at + strlen("expires at "), &at, 10);
	if ((at = strstr(at, " [in ")))
		*left_ns = strtoll(at + strlen(" [in "), NULL, 10);
	return when;
}

static int is_synchronised(void)
{
	struct timex state = { 0 };

	return adjtimex(&state) >= 0 && !(state.status & STA_UNSYNC);
}

/* The kernel writes no RTC until someone claims again that its clock is right; the rate is the plain one. */
void forbid_kernel_writes(void)
{
	struct timex state = { .modes = ADJ_STATUS | ADJ_FREQUENCY | ADJ_TICK, .status = STA_UNSYNC, .tick = 10000 };

	adjtimex(&state);
}

/*
 * A write once planned comes when it was planned, however often the clock is set anew meanwhile. To have the next one
 * soon after the client's start, time is moved past that moment: the kernel finds that it may not write, and plans none.
 */
static void drop_planned_write(void)
{
	struct timespec now, then = { 0 }, moment = { 0, 100000000 };
	long long left, at = next_write(&left);

	forbid_kernel_writes();
	if (!at)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	then.tv_sec = at / NS + 1;
	clock_settime(CLOCK_REALTIME, &then);
	nanosleep(&moment, NULL);
	clock_settime(CLOCK_REALTIME, &now);
}

/* Returns whether it said something, within LOOK_MS. */
static int hear(int pipe_end)
{
	struct pollfd end = { pipe_end, POLLIN, 0 };
	char words[500];

	if (poll(&end, 1, LOOK_MS) <= 0)
		return 0;
	ssize_t n = read(pipe_end, words, sizeof(words));
	if (n <= 0) {                     /* it has ended: do not spin until that is seen */
		usleep(LOOK_MS * 1000);
		return 0;
	}
	if (n > (int)sizeof(output) - output_length) {   /* its last words are worth more than its first */
		memmove(output, output + n, sizeof(output) - n);
		output_length = sizeof(output) - n;
	}
	memcpy(output + output_length, words, n);
	output_length += n;
	return 1;
}

static void end(pid_t child)
{
	kill(child, SIGTERM);
	for (int i = 0; i < 40; i++) {
		if (waitpid(child, NULL, WNOHANG))
			return;
		usleep(50000);
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

struct watch {
	uint64_t started, synchronised, written;
	int writes, seen, died, status;
};

static void watch_kernel(struct watch *watch, pid_t client, int pipe_end, int writes, uint64_t limit_ns)
{
	long long planned = 0;

	for (;;) {
		long long left, at;

		hear(pipe_end);
		watch->died = waitpid(client, &watch->status, WNOHANG) == client;
		if (!watch->synchronised && is_synchronised())
			watch->synchronised = now_ns();
		at = next_write(&left);
		watch->seen |= at != 0;
		if (watch->synchronised && at && at != planned && left > LONG_NS) {
			watch->writes++;
			watch->written = now_ns();
			planned = at;
		}
		if (watch->died || watch->writes >= writes || now_ns() - watch->started > limit_ns)
			return;
		if (watch->synchronised && !watch->seen && now_ns() - watch->synchronised > UNSEEN_NS)
			return;
	}
}

/*
 * "SECONDS WRITES LIMIT_MS": has the client set the clock to a server's that says SECONDS since 1970, and waits until the
 * kernel has written the RTC so often. Linux's driver has the RTC meanwhile.
 */
void run_ntp(char *words)
{
	char *rest = words;
	int64_t seconds = words ? strtoll(words, &rest, 10) : 0;
	int writes = strtol(rest ? rest : "", &rest, 10), port = 0, ends[2];
	uint64_t limit_ns = strtoull(rest ? rest : "", &rest, 10) * 1000000;
	struct watch watch = { 0 };

	if (!words || seconds < 0 || writes < 1 || !limit_ns)
		say("no words time, writes and limit are needed");
	else if (!has_client())
		say("no client there is no chronyd in this guest");
	else if (pipe2(ends, O_CLOEXEC))
		say("no pipe errno %d", errno);
	if (reply_begun())
		return;
	int server = open_server(&port);
	if (server < 0) {
		say("no network errno %d", errno);
		close(ends[0]), close(ends[1]);
		return;
	}
	mkdir("/etc", 0755), mkdir("/run", 0755);
	int users = open("/etc/passwd", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (users >= 0) {                 /* an initramfs of ours has none, and the client wants to know root */
		dprintf(users, "root:x:0:0::/:/bin/sh\n");
		close(users);
	}
	drop_planned_write();
	lend_the_rtc();
	watch.started = now_ns();
	pid_t serving = fork();
	if (serving == 0)
		serve_time(server, seconds);
	pid_t client = fork();
	if (client == 0) {
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		become_client(port);
	}
	close(ends[1]);
	close(server);
	output_length = 0;
	watch_kernel(&watch, client, ends[0], writes, limit_ns);
	if (!watch.died)
		end(client);
	while (hear(ends[0]))             /* why it died it says last */
		;
	end(serving);
	close(ends[0]);
	forbid_kernel_writes();
	if (!free_the_rtc())
		return;
	say("ok client_ns=%llu synchronised_ns=%llu written_ns=%llu writes=%d seen=%d died=%d status=%d output=",
	    (unsigned long long)watch.started, (unsigned long long)watch.synchronised, (unsigned long long)watch.written,
	    watch.writes, watch.seen, watch.died, watch.status);
	say_token(output, output_length);
}
