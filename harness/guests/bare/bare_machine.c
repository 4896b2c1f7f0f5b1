/*
 * A PC without an operating system: COM1 by interrupt, the time-stamp counter measured against the timer chip,
 * and sleep until either has something to say.
 */
#include "bare.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <time.h>
#include <unistd.h>

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define TIMER_HZ 1193182ull
#define TIMER_IRQ 0x20
#define SERIAL_IRQ 0x24
#define SPIN_NEAR_NS 200000            /* so close to its end a wait spins: an interrupt costs about this much */

static volatile uint8_t received[8192];
static volatile unsigned int received_head, received_tail;
static uint64_t ticks_at_start;
static uint32_t ns_per_tick;      /* times 2^24 */

struct gate {
	uint16_t low, selector, flags, high;
} __attribute__((packed));

static struct gate gates[256];
void gate_0x20(void), gate_0x24(void), gate_other(void);

static void set_gate(int number, void (*entry)(void))
{
	uint32_t address = (uint32_t)entry;

	gates[number] = (struct gate){ address, 8, 0x8e00, address >> 16 };
}

static uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* The timer's count, and the ticks when it was read: the quickest of some reads, for the host may have stopped us. */
static uint32_t timer_count(uint64_t *when)
{
	uint64_t quickest = -1ull;
	uint32_t best = 0;

	for (int i = 0; i < 5; i++) {
		uint64_t before = ticks();
		outb(0x80, 0x43);         /* latch counter 2 */
		uint64_t after = ticks();
		uint32_t count = inb(0x42);

		count |= inb(0x42) << 8;
		if (after - before < quickest) {
			quickest = after - before;
			*when = before + (after - before) / 2;
			best = count;
		}
	}
	return best;
}

/*
 * Nanoseconds per tick (times 2^24), from 2 ms of the timer; 0 where the host stopped us for most of the time: the
 * count wraps after 55 ms, and the ticks would look too quick.
 */
static uint32_t measured_once(void)
{
	uint64_t first, last, before, longest = 0;
	uint32_t from, passed, rest;

	from = timer_count(&first);
	last = first;
	do {
		before = last;
		passed = (from - timer_count(&last)) & 0xffff;
		if (last - before > longest)
			longest = last - before;
	} while (passed < TIMER_HZ / 500);
	if (longest > (last - first) / 2)
		return 0;
	/* passed / TIMER_HZ * 10^9 * 2^24 / (last - first), in an order that fits 64 bits */
	return divide(divide(passed * 1000000000ull, TIMER_HZ, &rest) << 24, (uint32_t)(last - first), &rest);
}

/* A stop makes the measure too small, never too large: the largest counts, once three have come close to it. */
static void measure_ticks(void)
{
	outb((inb(0x61) & 0xfc) | 1, 0x61);   /* counter 2 counts, silently */
	outb(0xb4, 0x43);                     /* counter 2: rate generator, 65536 */
	outb(0, 0x42);
	outb(0, 0x42);
	for (int close = 0; close < 3;) {
		uint32_t measured = measured_once();

		if (measured > ns_per_tick + ns_per_tick / 100)
			close = 0;
		if (measured > ns_per_tick)
			ns_per_tick = measured;
		if (measured > ns_per_tick - ns_per_tick / 100)
			close++;
	}
	ticks_at_start = ticks();
}

int clock_gettime(int clock, struct timespec *now)
{
	uint64_t passed = ticks() - ticks_at_start;
	uint64_t ns = ((passed >> 32) * ns_per_tick << 8) + ((passed & 0xffffffff) * ns_per_tick >> 24);

	(void)clock;
	now->tv_sec = divide(ns, 1000000000, &now->tv_nsec);
	return 0;
}

static void wait_for_interrupt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* One-shot interrupts of the timer, at most 54 ms each; the end is left to the caller, who spins. */
int clock_nanosleep(int clock, int flags, const struct timespec *until, struct timespec *rest)
{
	uint32_t remainder;

	(void)flags, (void)rest;
	outb(inb(0x21) & ~1, 0x21);
	for (;;) {
		struct timespec now;

		clock_gettime(clock, &now);
		int64_t left = (int64_t)(until->tv_sec - now.tv_sec) * 1000000000 + until->tv_nsec - now.tv_nsec;
		if (left < SPIN_NEAR_NS)
			break;
		uint64_t count = divide(left * TIMER_HZ, 1000000000, &remainder);
		if (count > 0xffff)
			count = 0xffff;
		outb(0x30, 0x43);                 /* counter 0: interrupt on terminal count */
		outb(count, 0x40);
		outb(count >> 8, 0x40);
		wait_for_interrupt();
	}
	outb(inb(0x21) | 1, 0x21);
	return 0;
}

/* An exception has no one to handle it: QEMU's -no-reboot turns the triple fault into the guest's death. */
void interrupt(unsigned int number)
{
	static const struct { uint16_t limit; uint32_t base; } __attribute__((packed)) none = { 0, 0 };

	if (number == SERIAL_IRQ) {
		while (inb(LINE_STATUS) & 1) {
			received[received_head % sizeof(received)] = inb(COM1);
			received_head++;
		}
	} else if (number != TIMER_IRQ) {
		static const char last_words[] = "\r\nbare guest: unexpected interrupt\r\n";

		write(1, last_words, sizeof(last_words) - 1);
		__asm__ volatile("lidt %0; int3" : : "m"(none));
	}
	outb(0x20, 0x20);
}

void prepare_machine(void)
{
	struct { uint16_t limit; uint32_t base; } __attribute__((packed)) table = { sizeof(gates) - 1, (uint32_t)gates };
	static const uint8_t pic[][2] = {     /* both controllers: vectors from 0x20, all masked but COM1 */
		{ 0x11, 0x20 }, { 0x11, 0xa0 }, { 0x20, 0x21 }, { 0x28, 0xa1 }, { 4, 0x21 }, { 2, 0xa1 },
		{ 1, 0x21 }, { 1, 0xa1 }, { 0xef, 0x21 }, { 0xff, 0xa1 },
	};
	static const uint8_t serial[][2] = {  /* 115200 8n1, FIFOs, interrupt when something came */
		{ 0x80, 3 }, { 1, 0 }, { 0, 1 }, { 3, 3 }, { 7, 2 }, { 0x0b, 4 }, { 1, 1 },
	};

	for (int i = 0; i < 256; i++)
		set_gate(i, gate_other);
	set_gate(TIMER_IRQ, gate_0x20);
	set_gate(SERIAL_IRQ, gate_0x24);
	__asm__ volatile("lidt %0" : : "m"(table));
	for (unsigned int i = 0; i < sizeof(pic) / sizeof(pic[0]); i++)
		outb(pic[i][0], pic[i][1]);
	for (unsigned int i = 0; i < sizeof(serial) / sizeof(serial[0]); i++)
		outb(serial[i][0], COM1 + serial[i][1]);
	measure_ticks();
}

ssize_t write(int fd, const void *data, size_t count)
{
	const char *byte = data;

	(void)fd;
	for (size_t i = 0; i < count; i++) {
		while (!(inb(LINE_STATUS) & 0x20))
			;
		outb(byte[i], COM1);
	}
	return count;
}

/* The next byte from the console; asleep until there is one. Interrupts are on nowhere else but in a sleep. */
char read_byte(void)
{
	while (received_tail == received_head)
		wait_for_interrupt();
	return received[received_tail++ % sizeof(received)];
}

static void stop(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

void restart_machine(void)
{
	outb(0xfe, 0x64);                 /* the keyboard controller's reset line, on every PC */
	stop();
}

void reset_in_full(void)
{
	outb(0x0e, 0xcf9);                /* the reset control register of pc and q35: bit 3 asks for all there is */
	stop();
}

void power_off_machine(void)
{
	outw(0x2000, 0x604);              /* ACPI's sleep control as SeaBIOS places it on pc and q35 */
	stop();
}
