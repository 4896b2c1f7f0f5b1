/*
 * Programs of the guest's own: hwclock when it is asked for, and never when it is not.
 *
 * Many systems end with `hwclock --systohc`, by a unit, a script or the init itself. While the agent has the RTC, a
 * program that does nothing is mounted over the guest's hwclock, so that no shutdown writes the RTC, whoever began it.
 * The mount is the kernel's alone: it is gone when it is given back, or with the guest.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HWCLOCK_LIMIT_MS 15000
#define NOTHING "#!/bin/sh\nexit 0\n"
#define MOST 4

static const char *const folders[] = { "/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/", NULL };
static const char *const places[] = { "/run/.rtc-no-hwclock", "/dev/shm/.rtc-no-hwclock", "/tmp/.rtc-no-hwclock", NULL };
static const char *place;         /* of the program that does nothing, while it is there */
static char covered[MOST][32];
static int cover_count, is_busybox, is_bare;

static int same_file(const char *one, const char *other)
{
	struct stat first, second;

	return !stat(one, &first) && !stat(other, &second) && first.st_dev == second.st_dev
		&& first.st_ino == second.st_ino;
}

/*
 * The guest's own program by its name, wherever it is. What it says goes to `output` (or nowhere). Returns its exit
 * status, -1 where it had to be killed, 127 where there is none.
 */
int run_program(char *const words[], char *output, int size, int limit_ms, int *length)
{
	int ends[2], status = 0, n = 0, got = 0;
	char lost[200];

	if (pipe(ends))
		return -1;
	pid_t child = fork();
	if (child == 0) {
		int nowhere = open("/dev/null", O_RDWR);

		dup2(nowhere, 0);
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		close(ends[0]);
		close(ends[1]);
		for (int i = 0; folders[i]; i++) {
			char path[80];

			snprintf(path, sizeof(path), "%s%.50s", folders[i], words[0]);
			execv(path, words);
		}
		dprintf(2, "%s: errno %d", words[0], errno);
		_exit(127);
	}
	close(ends[1]);
	struct pollfd end = { ends[0], POLLIN, 0 };
	while ((n = poll(&end, 1, limit_ms)) > 0) {
		int room = got < size;

		n = read(ends[0], room ? output + got : lost, room ? size - got : (int)sizeof(lost));
		if (n <= 0)
			break;
		got += room ? n : 0;
	}
	if (n)                    /* it hangs */
		kill(child, SIGKILL);
	close(ends[0]);
	waitpid(child, &status, 0);
	if (length)
		*length = got;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether the system is on its way down: then nothing is given back, for its end would write the RTC. */
int is_stopping(void)
{
	char state[40] = "";
	int length;
	char *const words[] = { "systemctl", "is-system-running", NULL };

	if (access("/run/systemd/system", F_OK))
		return 0;
	run_program(words, state, sizeof(state) - 1, 5000, &length);
	return !strncmp(state, "stopping", 8);
}

static int write_nothing(void)
{
	for (int i = 0; places[i] && !place; i++) {
		int fd = open(places[i], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

		if (fd < 0)
			continue;
		if (write(fd, NOTHING, strlen(NOTHING)) == (ssize_t)strlen(NOTHING))
			place = places[i];
		close(fd);
	}
	return place != NULL;
}

/* Not a busybox's: that would cover all of busybox. Such a guest is powered off without its init (system_off). */
void cover_hwclock(void)
{
	if (getpid() == 1)        /* an initramfs of ours has no one who would call it */
		return;
	is_busybox = is_bare = 0;
	for (int i = 0; folders[i]; i++) {
		char path[32];

		snprintf(path, sizeof(path), "%shwclock", folders[i]);
		if (access(path, F_OK) || (place && same_file(path, place)))
			continue;
		if (same_file(path, "/bin/busybox") || same_file(path, "/usr/bin/busybox"))
			is_busybox = 1;
		else if (cover_count < MOST && write_nothing() && !mount(place, path, NULL, MS_BIND, NULL))
			memcpy(covered[cover_count++], path, sizeof(path));
		else
			is_bare = 1;
	}
}

void uncover_hwclock(void)
{
	while (cover_count > 0)
		umount2(covered[--cover_count], MNT_DETACH);
	if (place)
		unlink(place);
	place = NULL;
}

const char *shutdown_hwclock(void)
{
	return is_busybox ? "busybox" : is_bare ? "not-held" : cover_count ? "held" : "none";
}

/* `hwclock --systohc --utc` through Linux's own driver, which is bound for that long (as a new rtcN each time). */
void run_hwclock(char *words)
{
	char output[2000], name[64], device[80];
	int length = 0, status;

	(void)words;
	lend_the_rtc();
	link_in("/sys/class/rtc", name);
	snprintf(device, sizeof(device), "/dev/%s", name);
	char *const own[] = { "hwclock", "-w", "-u", "-f", device, "--noadjfile", NULL };
	char *const ours[] = { "busybox", "hwclock", "-w", "-u", "-f", device, NULL };
	int by_busybox = same_file("/sbin/hwclock", "/bin/busybox")
		|| (access("/sbin/hwclock", X_OK) && access("/usr/sbin/hwclock", X_OK));
	uint64_t start = now_ns();
	status = run_program(by_busybox ? ours : own, output, sizeof(output), HWCLOCK_LIMIT_MS, &length);
	uint64_t finish = now_ns();
	if (!free_the_rtc())
		return;
	say("ok exit=%d start_ns=%llu end_ns=%llu output=", status,
	    (unsigned long long)start, (unsigned long long)finish);
	say_token(output, length);
}
