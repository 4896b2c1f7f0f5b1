/* What the agent's parts share. The first three are the same everywhere; the system is Linux, or none (bare/). */
#ifndef AGENT_H
#define AGENT_H

#include <stdint.h>

#define AGENT_VERSION "1"
#define LINE_SIZE 4096            /* longest line from the host */
#define INDEX_PORT 0x70

/* agent.c: commands */
struct termios;
struct command {
	const char *name;
	void (*answer)(char *words);
	void (*leave)(void);      /* for commands that do not come back: called after the answer went out */
	int harmless;             /* answered before the proof: they look and touch nothing */
};
void identify(char *command_line);
void forget_proof(void);
int take_byte(char byte);

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

/* the system around the agent: what it can do besides, and the way to the RTC's ports (says why not) */
extern const struct command system_commands[];
int take_the_rtc(void);
void say_info(void);

/* agent_linux.c: whether we are told to end, within this time */
int wait_for_end(int ms);

/* agent_system.c: Linux */
void become_init(void);
int make_raw(int fd, struct termios *before);
int read_file(const char *path, char *text, int size);
int free_the_rtc(void);
void link_in(const char *path, char name[64]);
void lend_the_rtc(void);
void set_clock(char *words);
void make_noise(char *words);
void system_panic(void);
void system_restart(void);
void system_off(void);

/* agent_ntp.c: Linux */
void run_ntp(char *words);
void forbid_kernel_writes(void);

/* agent_daemons.c: Linux */
void stop_time_daemons(void);
void start_time_daemons(void);
void say_time_daemons(void);

/* agent_hwclock.c: Linux */
int run_program(char *const words[], char *output, int size, int limit_ms, int *length);
void cover_hwclock(void);
void uncover_hwclock(void);
const char *shutdown_hwclock(void);
void run_hwclock(char *words);
int is_stopping(void);

#endif
