/* What the agent's parts share: agent.c (commands), agent_frames.c, agent_rtc.c, agent_system.c. */
#ifndef AGENT_H
#define AGENT_H

#include <stdint.h>

#define AGENT_VERSION "1"
#define LINE_SIZE 4096            /* longest line from the host */
#define INDEX_PORT 0x70

/* agent_frames.c: one reply is gathered with say() and goes out as numbered, checksummed parts */
extern int in_fd, out_fd;
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_token(const char *text, int length);
int reply_begun(void);
void forget_reply(void);
void send_reply(unsigned long sequence);
void send_line(const char *payload);
char *framed_command(char *line, unsigned long *sequence);

/* agent_rtc.c: items of register accesses */
uint64_t now_ns(void);
void load_steps(char *words);
void run_steps(char *words);
void forget_steps(void);

/* agent_system.c: what belongs to the operating system around the agent */
void become_init(void);
int read_file(const char *path, char *text, int size);
void free_the_rtc(void);
void run_hwclock(char *words);
void set_clock(char *words);
void say_info(void);
void make_noise(char *words);
void system_panic(void);
void system_restart(void);
void system_off(void);

#endif
