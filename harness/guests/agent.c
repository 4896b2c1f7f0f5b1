/*
 * The agent inside a guest: writes CMOS registers on request and reports exactly what it wrote, and when.
 *
 * As PID 1 of an initramfs it makes itself a small system; started by another init it talks over standard
 * input and output. The line protocol is described in frames.py and agent_link.py.
 *
 * On a Service VM port 0x71 is the physical RTC. So no command that changes anything is carried out unless a
 * `hello` proved where we are (a hypervisor CPUID leaf that the host named) and the command carries the nonce
 * that is on this guest's own kernel command line; and the agent has the rights to two ports, no more.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <cpuid.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define READY_PERIOD_MS 1000      /* a ready line lost in kernel noise is said again until the host speaks */

static char nonce[80], signature[16];
static int proved;

static void read_identity(void)
{
	char line[LINE_SIZE], *rest = NULL;
	unsigned int a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (c & 1u << 31) {       /* "a hypervisor is present": without it the leaf means nothing */
		__cpuid(0x40000000, a, b, c, d);
		memcpy(signature, &b, 4);
		memcpy(signature + 4, &c, 4);
		memcpy(signature + 8, &d, 4);
	}
	read_file("/proc/cmdline", line, sizeof(line));
	for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
		if (!strncmp(word, "rtc.nonce=", 10))
			snprintf(nonce, sizeof(nonce), "%s", word + 10);
}

/* "SIGNATURE,SIGNATURE...": those that the host accepts, in hexadecimal, without closing NULs. */
static void hello(char *signatures)
{
	char own[64] = "", *rest = NULL;
	int known = 0;

	for (int i = 0; signature[i]; i++)
		sprintf(own + strlen(own), "%02x", (unsigned char)signature[i]);
	for (char *one = strtok_r(signatures, ",", &rest); one; one = strtok_r(NULL, ",", &rest))
		known |= own[0] && !strcmp(one, own);
	proved = 0;
	forget_steps();
	if (!known) {
		say("no hypervisor this machine's is ");
		say_token(signature, strlen(signature));
	} else if (ioperm(INDEX_PORT, 2, 1)) {
		say("no ports ioperm: %s", strerror(errno));
	} else {
		free_the_rtc();
		proved = 1;
		say("ok agent=" AGENT_VERSION " hypervisor=");
		say_token(signature, strlen(signature));
		say_info();
	}
}

static void info(char *words)
{
	(void)words;
	say("ok agent=" AGENT_VERSION " hypervisor=");
	say_token(signature, strlen(signature));
	say_info();
}

static void load(char *words)
{
	load_steps(words);
	if (!reply_begun())
		say("ok");
}

static const struct command {
	const char *name;
	void (*answer)(char *words);
	void (*leave)(void);      /* for commands that do not come back: called after the answer went out */
} commands[] = {
	{ "hello", hello, NULL }, { "info", info, NULL }, { "load", load, NULL }, { "run", run_steps, NULL },
	{ "hwclock", run_hwclock, NULL }, { "clock", set_clock, NULL }, { "noise", make_noise, NULL },
	{ "panic", NULL, system_panic }, { "reboot", NULL, system_restart }, { "poweroff", NULL, system_off },
};

/* "NAME NONCE WORDS...": carries it out, or says "no REASON ..." and does nothing. Returns what is left to do. */
static const struct command *execute(char *payload)
{
	char *rest = NULL, *name = strtok_r(payload, " ", &rest), *theirs = strtok_r(NULL, " ", &rest);
	const struct command *command = commands, *end = commands + sizeof(commands) / sizeof(commands[0]);

	while (command < end && (!name || strcmp(name, command->name)))
		command++;
	if (command == end)
		say("no command '%.20s' is unknown", name ? name : "");
	else if (!nonce[0] || !theirs || strcmp(theirs, nonce))
		say("no nonce the command's is not this guest's own");
	else if (!proved && command->answer != hello && command->answer != info)
		say("no hello has been said");
	else if (command->answer)
		command->answer(rest);
	else {
		say("ok");
		return command;
	}
	return NULL;
}

/* A repeated number is answered from memory, never carried out again; only `hello` may go back in number. */
static void handle_line(char *line)
{
	static unsigned long last;
	unsigned long sequence = 0;
	char text[60], *payload = framed_command(line, &sequence);
	const struct command *leaving = NULL;

	if (!payload)
		return;
	if (sequence == 0 || (sequence < last && strncmp(payload, "hello ", 6))) {
		sprintf(text, "no sequence the last was %lu", last);
		send_line(text);
		return;
	}
	if (sequence != last) {
		last = sequence;
		forget_reply();
		leaving = execute(payload);
	}
	send_reply(sequence);
	if (leaving) {
		tcdrain(out_fd);
		leaving->leave();
	}
}

int main(void)
{
	static char line[LINE_SIZE];
	int length = 0, spoken_to = 0;
	struct sched_param first = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };

	if (getpid() == 1)
		become_init();
	read_identity();
	mlockall(MCL_CURRENT | MCL_FUTURE);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	for (;;) {
		struct pollfd console = { in_fd, POLLIN, 0 };
		char bytes[256];

		if (!spoken_to)
			send_line("ready agent=" AGENT_VERSION);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (poll(&console, 1, spoken_to ? -1 : READY_PERIOD_MS) <= 0)
			continue;
		ssize_t n = read(in_fd, bytes, sizeof(bytes));
		if (n <= 0)
			return 1;
		for (char *byte = bytes; byte < bytes + n; byte++) {
			if (*byte == '\n' || *byte == '\r') {
				line[length] = 0;
				length = 0;
				spoken_to = 1;
				handle_line(line);
			} else if (length < LINE_SIZE - 1) {
				line[length++] = *byte ? *byte : '?';
			}
		}
	}
}
