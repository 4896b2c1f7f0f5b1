#pragma once
#include <stddef.h>
unsigned long strtoul(const char *text, char **end, int base);
int atoi(const char *text);
