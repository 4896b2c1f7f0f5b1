/* What the bare guest's parts share: start.S, bare.c, bare_machine.c, bare_libc.c. */
#ifndef BARE_H
#define BARE_H

#include <stdint.h>

/* bare_machine.c */
void prepare_machine(void);
char read_byte(void);
void restart_machine(void);
void reset_in_full(void);
void power_off_machine(void);
void interrupt(unsigned int number);

/* bare_libc.c */
uint64_t divide(uint64_t dividend, uint32_t divisor, uint32_t *rest);

#endif
