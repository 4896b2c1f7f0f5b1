/* Stands in for /dev/acrn_hsm, the kernel behind it and the hypervisor: preloaded, it takes the two vm_event requests.
 *
 * It does with the page what they do: looks at alignment and magic, pins the page (a second mapping of the very same
 * memory: it is there after the caller has unmapped its own, and what is written there the caller sees only while it
 * has that memory mapped and no copy of it), keeps the eventfd, and puts elements under ACRN's layout: no stamps, and
 * a full ring refuses without counting. What it is to put, and what it has seen, goes over a socket, HSM_DOUBLE_CONTROL.
 * HSM_DOUBLE_FAIL=REQUEST:ERRNO makes a request (0xa0 the ring, 0xa1 the eventfd, in decimal) fail. With
 * HSM_DOUBLE_EARLY the hypervisor has something to put as soon as it has the ring, when there is no eventfd yet.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SETUP_RING 0x4008a2a0UL
#define SETUP_FD 0x4004a2a1UL
#define PAGE 4096UL
#define MAGIC 0x5aa57aa71aa13aa3ULL
#define CANARY_AT 60 /* in the header's padding */

struct ring {
	uint64_t magic;
	uint32_t ele_num, ele_size, head, tail, flags, reserved, overrun_cnt, size, padding[6];
	uint8_t data[PAGE - 64];
};

struct order {
	uint32_t what; /* 'p': put and kick each; 'q': put, no kick; 'k': kick; 's': state */
	uint32_t count;
	int64_t last_time, delta_time;
	uint32_t type;
} __attribute__((packed));

static struct ring *pinned;
static unsigned long address;
static int kick = -1;

static int ordered_failure(unsigned long request)
{
	const char *order = getenv("HSM_DOUBLE_FAIL");
	unsigned int number, code;

	if (order && sscanf(order, "%u:%u", &number, &code) == 2 && number == (request & 0xff))
		return (int)code;
	return 0;
}

static int put(const struct order *order)
{
	uint32_t after = (pinned->tail + 32) % pinned->size;
	uint8_t element[32] = {0};

	if (after == *(volatile uint32_t *)&pinned->head)
		return 0;
	memcpy(element, &order->type, 4);
	memcpy(element + 4, &order->last_time, 8);
	memcpy(element + 12, &order->delta_time, 8);
	memcpy(pinned->data + pinned->tail, element, 32);
	__sync_synchronize();
	*(volatile uint32_t *)&pinned->tail = after;
	return 1;
}

static int setup_ring(unsigned long argument)
{
	const struct order early = {0};
	struct ring *page;

	if (argument % PAGE)
		return EINVAL;
	/* An old size of 0 maps shared memory once more; the kernel refuses that for private memory. */
	page = mremap((void *)argument, 0, PAGE, MREMAP_MAYMOVE);
	if (page == MAP_FAILED)
		return EFAULT;
	if (page->magic != MAGIC || page->ele_num != 126 || page->ele_size != 32 || page->size != 126 * 32 || page->flags ||
	    page->head || page->tail) {
		munmap(page, PAGE);
		return EINVAL;
	}
	if (pinned)
		munmap(pinned, PAGE);
	pinned = page;
	address = argument;
	if (getenv("HSM_DOUBLE_EARLY"))
		put(&early);
	return 0;
}

static int setup_fd(int descriptor)
{
	char path[64], target[64] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
	if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, "eventfd"))
		return EINVAL;
	if (kick >= 0)
		close(kick);
	kick = fcntl(descriptor, F_DUPFD_CLOEXEC, 500); /* the kernel's own reference, out of the way */
	return 0;
}

int ioctl(int descriptor, unsigned long request, ...)
{
	unsigned long argument;
	va_list list;
	int code;

	va_start(list, request);
	argument = va_arg(list, unsigned long);
	va_end(list);
	if (request != SETUP_RING && request != SETUP_FD)
		return (int)syscall(SYS_ioctl, descriptor, request, argument);
	if (fcntl(descriptor, F_GETFD) < 0)
		return -1;
	code = ordered_failure(request);
	if (!code)
		code = request == SETUP_RING ? setup_ring(argument) : setup_fd((int)argument);
	errno = code;
	return code ? -1 : 0;
}

static void kick_it(void)
{
	uint64_t one = 1;

	if (write(kick, &one, sizeof(one)) != sizeof(one))
		abort();
}

static const char *mapped_there(void)
{
	static uint32_t canary = 0xc0de0000;
	uint32_t seen = 0;
	struct iovec here = {&seen, sizeof(seen)}, there = {(void *)(address + CANARY_AT), sizeof(seen)};

	canary++;
	memcpy((uint8_t *)pinned + CANARY_AT, &canary, sizeof(canary));
	if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != sizeof(seen))
		return "unmapped";
	return seen == canary ? "mapped" : "copied";
}

static void *obey(void *argument)
{
	int control = (int)(intptr_t)argument;
	struct order order;
	char answer[128];

	while (recv(control, &order, sizeof(order), 0) == sizeof(order)) {
		uint32_t done = 0;

		if (!pinned || kick < 0) {
			snprintf(answer, sizeof(answer), "nothing registered");
		} else if (order.what == 's') {
			snprintf(answer, sizeof(answer), "%s overrun %u", mapped_there(), pinned->overrun_cnt);
		} else if (order.what == 'k') {
			kick_it();
			snprintf(answer, sizeof(answer), "kicked");
		} else {
			for (; done < order.count && put(&order); done++) {
				order.last_time += order.delta_time;
				if (order.what == 'p')
					kick_it();
			}
			snprintf(answer, sizeof(answer), "put %u", done);
		}
		send(control, answer, strlen(answer), 0);
	}
	return NULL;
}

__attribute__((constructor)) static void begin(void)
{
	const char *control = getenv("HSM_DOUBLE_CONTROL");
	sigset_t all, before;
	pthread_t thread;

	if (!control)
		return;
	/* Signals are for the program that was asked for; its threads decide who takes them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_create(&thread, NULL, obey, (void *)(intptr_t)atoi(control));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}
