/*
 * What the agent needs of a C library on Linux: system calls and little else (the rest is bare/bare_libc.c).
 *
 * With a real one linked in statically the agent has 826 KB, of which it uses next to nothing; with this it has 25. It is
 * typed into a user's guest through its serial console, where a second is worth 50 KB, and each byte a line of the trace.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/signalfd.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define REBOOT_MAGIC 0xfee1dead
#define REBOOT_MAGIC_2 672274793
#define MOST_WORDS 32

__asm__(".globl _start\n"
	"_start: xorl %ebp, %ebp\n"
	"movq (%rsp), %rdi\n"             /* argc */
	"leaq 8(%rsp), %rsi\n"            /* argv */
	"andq $-16, %rsp\n"
	"call main\n"
	"movl %eax, %edi\n"
	"call _exit\n");

static int error_number;

int *__errno_location(void)
{
	return &error_number;
}

/* The kernel's own answer: below 0 it is an error's number. */
static long ask(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long answer;

	__asm__ volatile("syscall" : "=a"(answer)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return answer;
}

static long result(long answer)
{
	if (answer >= 0)
		return answer;
	error_number = -answer;
	return -1;
}

#define CALL(number, a, b, c, d, e, f) \
	result(ask(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))
#define CALL0(number) CALL(number, 0, 0, 0, 0, 0, 0)
#define CALL1(number, a) CALL(number, a, 0, 0, 0, 0, 0)
#define CALL2(number, a, b) CALL(number, a, b, 0, 0, 0, 0)
#define CALL3(number, a, b, c) CALL(number, a, b, c, 0, 0, 0)

void _exit(int status)
{
	for (;;)
		ask(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

ssize_t read(int fd, void *to, size_t size) { return CALL3(SYS_read, fd, to, size); }
ssize_t write(int fd, const void *from, size_t size) { return CALL3(SYS_write, fd, from, size); }
int close(int fd) { return CALL1(SYS_close, fd); }
int dup2(int from, int to) { return CALL2(SYS_dup2, from, to); }
int pipe2(int ends[2], int flags) { return CALL2(SYS_pipe2, ends, flags); }
int pipe(int ends[2]) { return pipe2(ends, 0); }
int access(const char *path, int mode) { return CALL2(SYS_access, path, mode); }
int mkdir(const char *path, mode_t mode) { return CALL2(SYS_mkdir, path, mode); }
ssize_t readlink(const char *path, char *to, size_t size) { return CALL3(SYS_readlink, path, to, size); }
int poll(struct pollfd *fds, nfds_t count, int ms) { return CALL3(SYS_poll, fds, count, ms); }
pid_t getpid(void) { return CALL0(SYS_getpid); }
uid_t geteuid(void) { return CALL0(SYS_geteuid); }
void sync(void) { CALL0(SYS_sync); }
pid_t waitpid(pid_t pid, int *status, int flags) { return CALL(SYS_wait4, pid, status, flags, 0, 0, 0); }
int kill(pid_t pid, int number) { return CALL2(SYS_kill, pid, number); }
int unlink(const char *path) { return CALL1(SYS_unlink, path); }
int umount2(const char *where, int flags) { return CALL2(SYS_umount2, where, flags); }
int stat(const char *path, struct stat *status) { return CALL2(SYS_stat, path, status); }
int uname(struct utsname *name) { return CALL1(SYS_uname, name); }
int ioperm(unsigned long from, unsigned long count, int on) { return CALL3(SYS_ioperm, from, count, on); }
int mlockall(int flags) { return CALL1(SYS_mlockall, flags); }
int reboot(int how) { return CALL3(SYS_reboot, REBOOT_MAGIC, REBOOT_MAGIC_2, how); }
int adjtimex(struct timex *state) { return CALL1(SYS_adjtimex, state); }
int clock_gettime(clockid_t clock, struct timespec *now) { return CALL2(SYS_clock_gettime, clock, now); }
int clock_settime(clockid_t clock, const struct timespec *now) { return CALL2(SYS_clock_settime, clock, now); }
int nanosleep(const struct timespec *time, struct timespec *rest) { return CALL2(SYS_nanosleep, time, rest); }
int sched_get_priority_max(int policy) { return CALL1(SYS_sched_get_priority_max, policy); }
int socket(int family, int type, int protocol) { return CALL3(SYS_socket, family, type, protocol); }

/* The kernel's set of signals has 64 bits; so have the first of a C library's. */
#define SIGNAL_SET_SIZE 8

int sigemptyset(sigset_t *set)
{
	memset(set, 0, sizeof(*set));
	return 0;
}

int sigaddset(sigset_t *set, int number)
{
	set->__val[0] |= 1ul << (number - 1);
	return 0;
}

int sigprocmask(int how, const sigset_t *set, sigset_t *before)
{
	return CALL(SYS_rt_sigprocmask, how, set, before, SIGNAL_SET_SIZE, 0, 0);
}

int signalfd(int fd, const sigset_t *set, int flags)
{
	return CALL(SYS_signalfd4, fd, set, SIGNAL_SET_SIZE, flags, 0, 0);
}

/* What this process keeps for a descriptor of its own ends a child as ever. */
pid_t fork(void)
{
	pid_t child = CALL0(SYS_fork);
	sigset_t none;

	if (child == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
	}
	return child;
}

int sched_setscheduler(pid_t pid, int policy, const struct sched_param *parameters)
{
	return CALL3(SYS_sched_setscheduler, pid, policy, parameters);
}

int mount(const char *what, const char *where, const char *type, unsigned long flags, const void *data)
{
	return CALL(SYS_mount, what, where, type, flags, data, 0);
}

/* Unlike its fellows it returns the error's number. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *rest)
{
	return -ask(SYS_clock_nanosleep, clock, flags, (long)time, (long)rest, 0, 0);
}

int usleep(useconds_t microseconds)
{
	struct timespec time = { microseconds / 1000000, microseconds % 1000000 * 1000 };

	return nanosleep(&time, NULL);
}

int bind(int fd, __CONST_SOCKADDR_ARG address, socklen_t size)
{
	return CALL3(SYS_bind, fd, address.__sockaddr__, size);
}

int getsockname(int fd, __SOCKADDR_ARG address, socklen_t *size)
{
	return CALL3(SYS_getsockname, fd, address.__sockaddr__, size);
}

ssize_t recvfrom(int fd, void *to, size_t size, int flags, __SOCKADDR_ARG from, socklen_t *length)
{
	return CALL(SYS_recvfrom, fd, to, size, flags, from.__sockaddr__, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, __CONST_SOCKADDR_ARG to, socklen_t length)
{
	return CALL(SYS_sendto, fd, data, size, flags, to.__sockaddr__, length);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;

	va_start(arguments, flags);
	int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
	va_end(arguments);
	return CALL3(SYS_open, path, flags, mode);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;

	va_start(arguments, request);
	long argument = va_arg(arguments, long);
	va_end(arguments);
	return CALL3(SYS_ioctl, fd, request, argument);
}

/* The kernel's structure is how a C library's begins. */
int tcgetattr(int fd, struct termios *settings) { return ioctl(fd, TCGETS, settings); }
int tcsetattr(int fd, int when, const struct termios *settings) { return ioctl(fd, TCSETS + when, settings); }
int tcdrain(int fd) { return ioctl(fd, TCSBRK, 1L); }

void cfmakeraw(struct termios *settings)
{
	settings->c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	settings->c_oflag &= ~OPOST;
	settings->c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	settings->c_cflag = (settings->c_cflag & ~(CSIZE | PARENB)) | CS8;
	settings->c_cc[VMIN] = 1;
	settings->c_cc[VTIME] = 0;
}

int cfsetspeed(struct termios *settings, speed_t speed)
{
	settings->c_cflag = (settings->c_cflag & ~CBAUD) | speed;
	return 0;
}

/* One folder at a time. */
static struct __dirstream {
	int fd, at, length;
	char entries[2048] __attribute__((aligned(8)));
} folder;

DIR *opendir(const char *path)
{
	folder.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	folder.at = folder.length = 0;
	return folder.fd < 0 ? NULL : &folder;
}

struct dirent *readdir(DIR *opened)
{
	if (opened->at >= opened->length) {
		opened->length = CALL3(SYS_getdents64, opened->fd, opened->entries, sizeof(opened->entries));
		opened->at = 0;
		if (opened->length <= 0)
			return NULL;
	}
	struct dirent *entry = (struct dirent *)(opened->entries + opened->at);

	opened->at += entry->d_reclen;
	return entry;
}

int closedir(DIR *opened)
{
	return close(opened->fd);
}

/* Without an environment. */
int execv(const char *path, char *const words[])
{
	char *const none[] = { NULL };

	return CALL3(SYS_execve, path, words, none);
}

int execl(const char *path, const char *word, ...)
{
	char *words[MOST_WORDS + 1] = { (char *)word };
	va_list arguments;

	va_start(arguments, word);
	for (int i = 1; i < MOST_WORDS && (words[i] = va_arg(arguments, char *)); i++)
		;
	va_end(arguments);
	return execv(path, words);
}

int dprintf(int fd, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return write(fd, text, length < (int)sizeof(text) ? length : (int)sizeof(text) - 1);
}

void *memmove(void *to, const void *from, size_t count)
{
	char *target = to;
	const char *source = from;

	if (target < source)
		return memcpy(to, from, count);
	while (count--)
		target[count] = source[count];
	return to;
}

size_t strcspn(const char *text, const char *refused)
{
	size_t length = 0;

	while (text[length] && !strchr(refused, text[length]))
		length++;
	return length;
}

long strtol(const char *text, char **end, int base)
{
	const char *digits = text + strspn(text, " \t\n"), *from;
	char *behind;
	int negative = *digits == '-';

	from = digits + negative;
	unsigned long value = strtoul(from, &behind, base);
	if (end)
		*end = behind == from ? (char *)text : behind;
	return negative ? -(long)value : (long)value;
}

long long strtoll(const char *text, char **end, int base)
{
	return strtol(text, end, base);
}

unsigned long long strtoull(const char *text, char **end, int base)
{
	return strtol(text, end, base);
}
