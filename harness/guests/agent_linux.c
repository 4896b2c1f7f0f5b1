/* The agent as a Linux process: PID 1 of an initramfs, which makes itself a small system, or below another init. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define READY_PERIOD_MS 1000      /* a ready line lost in kernel noise is said again until the host speaks */

static struct termios settings_before;
static int has_settings;

/* The rights to the two ports, and whoever else would write the RTC out of the way. */
int take_the_rtc(void)
{
	if (ioperm(INDEX_PORT, 2, 1)) {
		say("no ports ioperm: errno %d", errno);
		return 0;
	}
	stop_time_daemons();
	free_the_rtc();
	return 1;
}

/* All as it was found; an agent that is not the guest's init is gone then. */
static void leave(void)
{
	forget_proof();
	lend_the_rtc();
	start_time_daemons();
	if (getpid() == 1)
		return;
	if (has_settings)
		tcsetattr(in_fd, TCSADRAIN, &settings_before);
	_exit(0);
}

const struct command system_commands[] = {
	{ "hwclock", run_hwclock, NULL }, { "ntp", run_ntp, NULL }, { "clock", set_clock, NULL },
	{ "noise", make_noise, NULL },
	{ "bye", NULL, leave }, { "panic", NULL, system_panic }, { "reboot", NULL, system_restart }, { "poweroff", NULL, system_off },
	{ NULL, NULL, NULL },
};

/* "rtc.nonce=NONCE" as the only word where it was not this guest's host that made the kernel's command line. */
int main(int count, char **words)
{
	char command_line[LINE_SIZE], bytes[256];
	int spoken_to = 0;
	struct sched_param first = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };

	if (getpid() == 1)
		become_init();
	else
		has_settings = make_raw(in_fd, &settings_before);
	if (count > 1)
		snprintf(command_line, sizeof(command_line), "%s", words[1]);
	else
		read_file("/proc/cmdline", command_line, sizeof(command_line));
	identify(command_line);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	for (;;) {
		struct pollfd console = { in_fd, POLLIN, 0 };

		if (!spoken_to)
			send_line("ready agent=" AGENT_VERSION);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (poll(&console, 1, spoken_to ? -1 : READY_PERIOD_MS) <= 0)
			continue;
		ssize_t n = read(in_fd, bytes, sizeof(bytes));
		if (n <= 0)
			return 1;
		for (char *byte = bytes; byte < bytes + n; byte++)
			spoken_to |= take_byte(*byte);
	}
}
