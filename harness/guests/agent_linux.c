/* The agent as a Linux process: PID 1 of an initramfs, which makes itself a small system, or below another init. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define READY_PERIOD_MS 1000      /* a ready line lost in kernel noise is said again until the host speaks */

static struct termios settings_before;
static int has_settings, signals = -1;

/* "none [integrity] confidentiality": what is in brackets holds. */
static int is_locked_down(void)
{
	char state[80];

	if (getpid() == 1)
		mount("securityfs", "/sys/kernel/security", "securityfs", 0, NULL);
	return read_file("/sys/kernel/security/lockdown", state, sizeof(state)) > 0 && !strstr(state, "[none]");
}

/* The rights to the two ports, and whoever else would write the RTC out of the way. */
int take_the_rtc(void)
{
	if (geteuid()) {
		say("no root the agent runs as user %d, and only root may touch a port", (int)geteuid());
		return 0;
	}
	if (ioperm(INDEX_PORT, 2, 1)) {
		int error = errno;

		if (is_locked_down())
			say("no lockdown the kernel is locked down and lets nobody touch a port (see lockdown= and Secure Boot)");
		else
			say("no ports ioperm: errno %d", error);
		return 0;
	}
	stop_time_daemons();
	if (free_the_rtc())
		return 1;
	lend_the_rtc();
	start_time_daemons();
	return 0;
}

/* All as it was found; an agent that is not the guest's init is gone then. */
static void leave(void)
{
	forget_proof();
	if (!is_stopping()) {
		lend_the_rtc();
		start_time_daemons();
	}
	if (getpid() == 1)
		return;
	if (has_settings)
		tcsetattr(in_fd, TCSADRAIN, &settings_before);
	_exit(0);
}

const struct command system_commands[] = {
	{ "hwclock", run_hwclock, NULL, 0 }, { "ntp", run_ntp, NULL, 0 }, { "clock", set_clock, NULL, 0 },
	{ "noise", make_noise, NULL, 0 }, { "bye", NULL, leave, 1 }, { "panic", NULL, system_panic, 0 },
	{ "reboot", NULL, system_restart, 0 }, { "poweroff", NULL, system_off, 0 },
	{ NULL, NULL, NULL, 0 },
};

/* A console that hangs up, or whoever ends processes: a descriptor that is readable then. */
static int open_end_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int wait_for_end(int ms)
{
	struct pollfd end = { signals, POLLIN, 0 };

	return poll(&end, 1, ms) > 0;
}

/* "rtc.nonce=NONCE" as the only word where it was not this guest's host that made the kernel's command line. */
int main(int count, char **words)
{
	char command_line[LINE_SIZE], bytes[256];
	int spoken_to = 0;
	struct sched_param first = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };

	if (getpid() == 1) {
		become_init();
	} else {
		has_settings = make_raw(in_fd, &settings_before);
		signals = open_end_signals();
	}
	if (count > 1)
		snprintf(command_line, sizeof(command_line), "%s", words[1]);
	else
		read_file("/proc/cmdline", command_line, sizeof(command_line));
	identify(command_line);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	for (;;) {
		struct pollfd ends[] = { { in_fd, POLLIN, 0 }, { signals, POLLIN, 0 } };

		if (!spoken_to)
			send_line("ready agent=" AGENT_VERSION);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (poll(ends, 2, spoken_to ? -1 : READY_PERIOD_MS) <= 0)
			continue;
		ssize_t n = ends[1].revents ? 0 : read(in_fd, bytes, sizeof(bytes));
		if (n <= 0) {             /* nobody is left to say `bye` */
			leave();
			return 1;
		}
		for (char *byte = bytes; byte < bytes + n; byte++)
			spoken_to |= take_byte(*byte);
	}
}
