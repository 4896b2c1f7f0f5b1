/*
 * Items: lists of register accesses and pauses, checked whole before the first access, then done back to back.
 *
 * Byte accesses only: in ACRN a 16-bit write to port 0x70 reaches the register indexed before. No index at or
 * above 0x38: in a real-time VM those bytes overwrite other state of the hypervisor.
 */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <time.h>

#define DATA_PORT 0x71
#define INDEX_LIMIT 0x38
#define MAX_STEPS 1024
#ifndef SPIN_NS
#define SPIN_NS 9000000           /* a sleep ends up to two ticks late */
#endif
#define MAX_PAUSE_US 600000000ULL

struct step {
	char kind;                /* 'w' write, 'r' read, 'p' pause */
	uint8_t index, value;
	uint64_t pause_us, done_ns;
};

static struct step steps[MAX_STEPS];
static int step_count;
static uint64_t longest_ns;       /* of this item's accesses: each was made so long after its stamp, at most */

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void forget_steps(void)
{
	step_count = 0;
}

/* "wIIVV" (hex), "rII" (hex) or "pMICROSECONDS" (decimal). */
static int parse_step(const char *word, struct step *step)
{
	size_t length = strlen(word), digits = strspn(word + 1, "0123456789");
	unsigned long number = strtoul(word + 1, NULL, word[0] == 'p' ? 10 : 16);

	step->kind = word[0];
	step->pause_us = number;
	step->index = word[0] == 'w' ? number >> 8 : number;
	step->value = number;
	if (word[0] == 'p')
		return digits && digits == length - 1 && length < 12 && number <= MAX_PAUSE_US;
	if (strspn(word + 1, "0123456789abcdef") != length - 1)
		return 0;
	return (word[0] == 'w' && length == 5) || (word[0] == 'r' && length == 3);
}

/* Appends steps to the item; one that is not acceptable refuses the whole item. */
void load_steps(char *words)
{
	char *rest = NULL;

	for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
		struct step *step = &steps[step_count];

		if (step_count == MAX_STEPS)
			say("no steps there are more than %d", MAX_STEPS);
		else if (!parse_step(word, step))
			say("no step '%.20s' is none", word);
		else if (step->kind != 'p' && step->index >= INDEX_LIMIT)
			say("no index 0x%02x is not one of the RTC's own bytes", step->index);
		if (reply_begun()) {
			forget_steps();
			return;
		}
		step_count++;
	}
}

/* Sleeps, then spins the rest: without a local APIC the kernel wakes us on its own ticks only, 4 ms apart. */
static void wait_until(uint64_t until)
{
	uint64_t asleep = until > SPIN_NS ? until - SPIN_NS : 0;
	struct timespec t = { asleep / 1000000000, asleep % 1000000000 };

	while (now_ns() < asleep && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
	while (now_ns() < until)
		;
}

/* Nothing here but the ports and the clock. A pause counts from the access (or the pause) before it. */
static void access_registers(void)
{
	uint64_t last = now_ns();

	longest_ns = 0;
	for (struct step *step = steps; step < steps + step_count; step++) {
		if (step->kind == 'p') {
			last += step->pause_us * 1000;
			wait_until(last);
			continue;
		}
		step->done_ns = last = now_ns();
		outb(step->index, INDEX_PORT);
		if (step->kind == 'w')
			outb(step->value, DATA_PORT);
		else
			step->value = inb(DATA_PORT);
		uint64_t took = now_ns() - last;
		if (took > longest_ns)
			longest_ns = took;
	}
}

/* "COUNT STEP...": runs what `load` brought and these steps, if they are COUNT together; reports each access. */
void run_steps(char *words)
{
	char *rest = NULL, *count = strtok_r(words, " ", &rest);

	load_steps(rest);
	if (!reply_begun() && (!count || step_count != atoi(count)))
		say("no count there are %d steps", step_count);
	if (!reply_begun()) {
		access_registers();
		say("ok g%llu", (unsigned long long)longest_ns);
		for (struct step *step = steps; step < steps + step_count; step++)
			if (step->kind != 'p')
				say(" %c%02x%02x=%llu", step->kind, step->index, step->value,
				    (unsigned long long)step->done_ns);
	}
	forget_steps();
}
