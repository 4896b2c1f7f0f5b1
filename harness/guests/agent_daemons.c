/*
 * Time daemons of a user's guest: stopped while the agent has the RTC, at work again when it is given back.
 *
 * By systemd where it runs them, which would start anew what seems to hang; any other is frozen as it is, so that no
 * other init has to be known: it sees a process that is there.
 */
#include "agent.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <unistd.h>

#define MOST 16
#define SYSTEMCTL_LIMIT_MS 20000

/* As /proc/PID/comm has them: at most 15 characters. */
static const char *const names[] = {
	"chronyd", "ntpd", "openntpd", "ntpsec", "systemd-timesyn", "ptp4l", "phc2sys", "timemaster", "sntp",
	"ntp-daemon", "htpdate", NULL
};
static struct daemon {
	int pid;
	char name[16], unit[100];
} stopped[MOST];
static int count;

static int is_time_daemon(const char *name)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(names[i], name))
			return 1;
	return 0;
}

/* The systemd unit of a process, or "": the last part of its control group. */
static void unit_of(int pid, char unit[100])
{
	char path[40], text[1000], *last;

	unit[0] = 0;
	if (access("/run/systemd/system", F_OK))
		return;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	read_file(path, text, sizeof(text));
	text[strcspn(text, "\n")] = 0;
	last = strrchr(text, '/');
	if (last && strstr(last, ".service"))
		snprintf(unit, 100, "%.90s", last + 1);
}

/* Returns 0 where it did what it was told. */
static int systemctl(const char *verb, const char *unit)
{
	char *const words[] = { "systemctl", (char *)verb, (char *)unit, NULL };

	return run_program(words, NULL, 0, SYSTEMCTL_LIMIT_MS, NULL);
}

static void stop(int pid, const char *name)
{
	struct daemon *daemon = &stopped[count];

	unit_of(pid, daemon->unit);
	if (daemon->unit[0] && systemctl("stop", daemon->unit))
		daemon->unit[0] = 0;
	if (!daemon->unit[0] && kill(pid, SIGSTOP))
		return;
	daemon->pid = pid;
	snprintf(daemon->name, sizeof(daemon->name), "%s", name);
	count++;
}

static int is_known(int pid)
{
	for (int i = 0; i < count; i++)
		if (stopped[i].pid == pid)
			return 1;
	return 0;
}

/* Also forbids the kernel to write by itself what a daemon has told it. */
void stop_time_daemons(void)
{
	struct timex state = { 0 };
	DIR *processes = opendir("/proc");
	struct dirent *entry;

	while (processes && count < MOST && (entry = readdir(processes))) {
		char path[60], name[32];
		int pid = atoi(entry->d_name);

		snprintf(path, sizeof(path), "/proc/%.20s/comm", entry->d_name);
		if (pid <= 1 || is_known(pid) || read_file(path, name, sizeof(name)) <= 0)
			continue;
		name[strcspn(name, "\n")] = 0;
		if (is_time_daemon(name))
			stop(pid, name);
	}
	if (processes)
		closedir(processes);
	if (adjtimex(&state) >= 0 && !(state.status & STA_UNSYNC))
		forbid_kernel_writes();
}

void start_time_daemons(void)
{
	while (count > 0) {
		struct daemon *daemon = &stopped[--count];

		if (daemon->unit[0])
			systemctl("start", daemon->unit);
		else
			kill(daemon->pid, SIGCONT);
	}
}

/* " time_daemons=NAME:PID,NAME:UNIT" */
void say_time_daemons(void)
{
	say(" time_daemons=");
	for (int i = 0; i < count; i++) {
		if (i)
			say(",");
		say_token(stopped[i].name, strlen(stopped[i].name));
		if (stopped[i].unit[0]) {
			say(":");
			say_token(stopped[i].unit, strlen(stopped[i].unit));
		} else {
			say(":%d", stopped[i].pid);
		}
	}
}
