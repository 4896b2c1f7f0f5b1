/*
 * The agent inside a guest: writes CMOS registers on request and reports exactly what it wrote, and when.
 *
 * The same on every guest; what differs is in agent_linux.c and agent_system.c (a Linux process, or PID 1 of an
 * initramfs) and in bare/ (no operating system at all). The line protocol is described in frames.py and
 * agent_link.py.
 *
 * On a Service VM port 0x71 is the physical RTC. So no command that changes anything is carried out unless a
 * `hello` proved where we are (a hypervisor CPUID leaf that the host named, and not ACRN's bit of the Service VM) and
 * the command carries the nonce that is on this guest's own kernel command line; and the agent has the rights to two
 * ports, no more.
 */
#include "agent.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef CPUID                     /* tests put another machine's answers here */
#define CPUID __cpuid
#endif
#define ACRN "ACRNACRNACRN"
#define PRIVILEGED_VM 1u          /* bit 0 of EAX of ACRN's leaf 0x40000001 */

static char nonce[80], signature[16];
static int proved, service_vm;

/* Who we are: the CPUID signature, and the nonce on the command line we were started with (which is cut up). */
void identify(char *command_line)
{
	unsigned int a, b, c, d;
	char *rest = NULL;

	CPUID(1, a, b, c, d);
	if (c & 1u << 31) {       /* "a hypervisor is present": without it the leaf means nothing */
		CPUID(0x40000000, a, b, c, d);
		memcpy(signature, &b, 4);
		memcpy(signature + 4, &c, 4);
		memcpy(signature + 8, &d, 4);
		CPUID(0x40000001, a, b, c, d);
		service_vm = !strcmp(signature, ACRN) && a & PRIVILEGED_VM;
	}
	for (char *word = strtok_r(command_line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
		if (!strncmp(word, "rtc.nonce=", 10))
			snprintf(nonce, sizeof(nonce), "%s", word + 10);
}

/* The RTC has been given back: nothing is carried out any more before another `hello`. */
void forget_proof(void)
{
	proved = 0;
}

static void introduce(void)
{
	say("ok agent=" AGENT_VERSION " variant=c grain_ns=1 hypervisor=");
	say_token(signature, strlen(signature));
	say_info();
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
	if (service_vm) {
		say("no service-vm this is ACRN's Service VM: its RTC is the machine's own");
	} else if (!signature[0]) {
		say("no hypervisor this machine's processor tells of none: this is no guest");
	} else if (!known) {
		say("no hypervisor this machine's is ");
		say_token(signature, strlen(signature));
	} else if (take_the_rtc()) {
		proved = 1;
		introduce();
	}
}

static void info(char *words)
{
	(void)words;
	introduce();
}

/* This guest's own clock, the one that accesses are stamped with. */
static void tell_time(char *words)
{
	(void)words;
	say("ok ns=%llu grain_ns=1", (unsigned long long)now_ns());
}

static void load(char *words)
{
	load_steps(words);
	if (!reply_begun())
		say("ok");
}

/* "NEW": the nonce from now on, of a guest that is one of many restored from one state with one nonce. */
static void adopt(char *words)
{
	size_t length = words ? strspn(words, "0123456789abcdef") : 0;

	if (length < 16 || length >= sizeof(nonce) || words[length])
		say("no word '%.20s' is no nonce", words ? words : "");
	else {
		memcpy(nonce, words, length + 1);
		say("ok");
	}
}

static const struct command commands[] = {
	{ "hello", hello, NULL, 1 }, { "info", info, NULL, 1 }, { "time", tell_time, NULL, 1 },
	{ "load", load, NULL, 0 }, { "run", run_steps, NULL, 0 }, { "adopt", adopt, NULL, 0 },
	{ NULL, NULL, NULL, 0 },
};

static const struct command *find_command(const struct command *table, const char *name)
{
	while (table->name && (!name || strcmp(name, table->name)))
		table++;
	return table->name ? table : NULL;
}

/* "NAME NONCE WORDS...": carries it out, or says "no REASON ..." and does nothing. Returns what is left to do. */
static const struct command *execute(char *payload)
{
	char *rest = NULL, *name = strtok_r(payload, " ", &rest), *theirs = strtok_r(NULL, " ", &rest);
	const struct command *command = find_command(commands, name);

	if (!command)
		command = find_command(system_commands, name);
	if (!command)
		say("no command '%.20s' is unknown", name ? name : "");
	else if (!nonce[0] || !theirs || strcmp(theirs, nonce))
		say("no nonce the command's is not this guest's own");
	else if (!proved && !command->harmless)
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
		leaving->leave();
	}
}

/* Takes what came from the console, byte by byte. Returns whether the host has said a whole line. */
int take_byte(char byte)
{
	static char line[LINE_SIZE];
	static int length;

	if (byte == '\n' || byte == '\r') {
		line[length] = 0;
		length = 0;
		handle_line(line);
		return 1;
	}
	if (length < LINE_SIZE - 1)
		line[length++] = byte ? byte : '?';
	return 0;
}
