/*
 * The agent without an operating system: up in a few hundredths of a second, and nothing else touches the RTC.
 *
 * A multiboot image; the nonce is on its command line, as on a kernel's.
 */
#include "../agent.h"
#include "bare.h"

#include <string.h>

#define COMMAND_LINE_IS_THERE (1u << 2)

struct multiboot {
	uint32_t flags, memory_low, memory_high, boot_device;
	const char *command_line;
};

/* Nobody else has the ports. */
int take_the_rtc(void)
{
	return 1;
}

void say_info(void)
{
	say(" kernel=bare uptime_ns=%llu", (unsigned long long)now_ns());
}

const struct command system_commands[] = {
	{ "reboot", NULL, restart_machine, 0 }, { "full-reset", NULL, reset_in_full, 0 },
	{ "poweroff", NULL, power_off_machine, 0 }, { NULL, NULL, NULL, 0 },
};

void bare_main(const struct multiboot *info)
{
	static char command_line[LINE_SIZE];

	if (info->flags & COMMAND_LINE_IS_THERE)
		for (int i = 0; i < LINE_SIZE - 1 && info->command_line[i]; i++)
			command_line[i] = info->command_line[i];
	prepare_machine();
	identify(command_line);
	send_line("ready agent=" AGENT_VERSION);
	for (;;)
		take_byte(read_byte());
}
