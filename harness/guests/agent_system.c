/* The operating system around the agent: start-up, the RTC's own driver, hwclock, and ways to end. */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SHUTDOWN_LIMIT_S 90

static const char *const drivers[] = { "/sys/bus/pnp/drivers/rtc_cmos", "/sys/bus/platform/drivers/rtc_cmos" };
static char devices[2][64];       /* what was bound to each driver when we came */

int read_file(const char *path, char *text, int size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n;
}

/* What comes and goes on a terminal is ours, byte by byte. Returns 0 where it is none. */
int make_raw(int fd, struct termios *before)
{
	struct termios raw;

	if (tcgetattr(fd, before))
		return 0;
	raw = *before;
	cfmakeraw(&raw);
	cfsetspeed(&raw, B115200);   /* a UART's receive FIFO waits 4 characters' time of this speed */
	tcsetattr(fd, TCSANOW, &raw);
	return 1;
}

/* What PID 1 of an initramfs must do itself, no more. */
void become_init(void)
{
	struct termios before;

	mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	in_fd = out_fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (in_fd >= 0)
		make_raw(in_fd, &before);
}

static void rtc_driver(const char *what)
{
	char path[96];

	for (int i = 0; i < 2; i++)
		if (devices[i][0]) {
			snprintf(path, sizeof(path), "%s/%s", drivers[i], what);
			write_file(path, devices[i]);
		}
}

/* The last entry of a folder of links (a driver's devices, a class's members); "" when there is none. */
void link_in(const char *path, char name[64])
{
	DIR *folder = opendir(path);
	struct dirent *entry;

	name[0] = 0;
	while (folder && (entry = readdir(folder)))
		if (entry->d_type == DT_LNK && strcmp(entry->d_name, "module"))
			snprintf(name, 64, "%.60s", entry->d_name);
	if (folder)
		closedir(folder);
}

/* Who has claimed the ports, by the kernel's own list: "0070-0071 : rtc0". */
static int is_claimed(char owner[40])
{
	static char ports[8192];
	char *line;

	read_file("/proc/ioports", ports, sizeof(ports));
	for (line = ports; (line = strstr(line, "0070-00")); line++) {
		char *name = strstr(line, " : ");

		if (!name || strncmp(name + 3, "rtc", 3))
			continue;
		snprintf(owner, 40, "%.30s", name + 3);
		owner[strcspn(owner, "\n")] = 0;
		return 1;
	}
	return 0;
}

/*
 * Linux's driver would race us on port 0x70: unbinds it, and remembers what to bind again for hwclock. Says why not, and
 * returns 0, where a driver stays.
 */
int free_the_rtc(void)
{
	char owner[40];

	for (int i = 0; i < 2; i++)
		if (!devices[i][0])       /* a second hello finds nothing bound: the first one's devices stay */
			link_in(drivers[i], devices[i]);
	rtc_driver("unbind");
	cover_hwclock();
	if (!is_claimed(owner))
		return 1;
	say("no other-driver the ports of the RTC belong to %s, which cannot be unbound", owner);
	return 0;
}

/* Back to Linux's driver, until the next free_the_rtc(). */
void lend_the_rtc(void)
{
	uncover_hwclock();
	rtc_driver("bind");
}

/* "SECONDS": sets the system clock (not the RTC), so that hwclock writes something known. */
void set_clock(char *words)
{
	char *end = words;
	struct timespec t = { words ? strtoll(words, &end, 10) : 0, 0 };

	if (end == words || *end || clock_settime(CLOCK_REALTIME, &t))
		say("no clock cannot be set to '%.20s'", words ? words : "");
	else
		say("ok");
}

void say_info(void)
{
	struct utsname name;
	char clocksource[40], load[40];

	uname(&name);
	read_file("/sys/devices/system/clocksource/clocksource0/current_clocksource", clocksource, 40);
	read_file("/proc/loadavg", load, 40);
	clocksource[strcspn(clocksource, "\n")] = load[strcspn(load, " ")] = 0;
	say(" kernel=%s uptime=%llu.%03u clocksource=%s load=%s rtc_device=%s", name.release,
	    (unsigned long long)(now_ns() / 1000000000), (unsigned int)(now_ns() / 1000000 % 1000),
	    clocksource, load, devices[0][0] ? devices[0] : devices[1]);
	say(" shutdown_hwclock=%s", shutdown_hwclock());
	say_time_daemons();
}

/* "COUNT": kernel messages of the highest level from beside; what the protocol must live with (fault tests). */
void make_noise(char *words)
{
	int count = words ? atoi(words) : 0;

	if (fork() == 0) {
		while (count-- > 0) {
			write_file("/dev/kmsg", "<0>noise: the kernel printed this line\n");
			usleep(100);
		}
		_exit(0);
	}
	say("ok");
}

/* The ways out: the answer is out before we are gone. */
void system_panic(void)
{
	tcdrain(out_fd);
	write_file("/proc/sysrq-trigger", "c");
}

void system_restart(void)
{
	tcdrain(out_fd);
	sync();
	reboot(RB_AUTOBOOT);
}

/*
 * In order, by the init that there is; a user's system may have files to write. Nothing is given back before: a
 * shutdown's own hwclock would write the RTC. Where that could not be prevented, or the init hangs, it is made short.
 */
void system_off(void)
{
	char *const in_order[] = { "poweroff", NULL };

	tcdrain(out_fd);
	if (getpid() != 1 && strcmp(shutdown_hwclock(), "busybox")
	    && !run_program(in_order, NULL, 0, SHUTDOWN_LIMIT_S * 1000, NULL) && wait_for_end(SHUTDOWN_LIMIT_S * 1000))
		_exit(0);
	sync();
	if (getpid() != 1)
		write_file("/proc/sysrq-trigger", "u");     /* file systems read-only */
	reboot(RB_POWER_OFF);
}
