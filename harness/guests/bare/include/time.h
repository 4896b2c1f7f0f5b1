#pragma once
#include <stdint.h>
#define CLOCK_MONOTONIC 1
#define TIMER_ABSTIME 1
struct timespec {
	uint64_t tv_sec;
	uint32_t tv_nsec;
};
int clock_gettime(int clock, struct timespec *now);
int clock_nanosleep(int clock, int flags, const struct timespec *until, struct timespec *rest);
