/* The little of a C library that the agent needs where there is none. */
#include "bare.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *memcpy(void *to, const void *from, size_t count)
{
	char *target = to;
	const char *source = from;

	while (count--)
		*target++ = *source++;
	return to;
}

void *memset(void *to, int value, size_t count)
{
	char *target = to;

	while (count--)
		*target++ = value;
	return to;
}

size_t strlen(const char *text)
{
	const char *end = text;

	while (*end)
		end++;
	return end - text;
}

int strncmp(const char *one, const char *other, size_t count)
{
	while (count && *one && *one == *other)
		one++, other++, count--;
	return count ? (unsigned char)*one - (unsigned char)*other : 0;
}

int strcmp(const char *one, const char *other)
{
	return strncmp(one, other, -1u);
}

char *strchr(const char *text, int wanted)
{
	for (;; text++) {
		if (*text == (char)wanted)
			return (char *)text;
		if (!*text)
			return NULL;
	}
}

char *strrchr(const char *text, int wanted)
{
	char *found = NULL;

	for (char *next = strchr(text, wanted); next; next = *next ? strchr(next + 1, wanted) : NULL)
		found = next;
	return found;
}

char *strstr(const char *text, const char *wanted)
{
	size_t length = strlen(wanted);

	for (; *text; text++)
		if (!strncmp(text, wanted, length))
			return (char *)text;
	return length ? NULL : (char *)text;
}

size_t strspn(const char *text, const char *accepted)
{
	const char *end = text;

	while (*end && strchr(accepted, *end))
		end++;
	return end - text;
}

char *strtok_r(char *text, const char *separators, char **rest)
{
	char *end;

	if (!text)
		text = *rest;
	if (text)
		text += strspn(text, separators);
	if (!text || !*text) {
		*rest = NULL;
		return NULL;
	}
	for (end = text; *end && !strchr(separators, *end); end++)
		;
	*rest = *end ? end + 1 : NULL;
	*end = 0;
	return text;
}

static unsigned int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'z' ? c - 'a' + 10u : 99;
}

unsigned long strtoul(const char *text, char **end, int base)
{
	unsigned long value = 0;

	for (; digit(*text) < (unsigned int)base; text++)
		value = value * base + digit(*text);
	if (end)
		*end = (char *)text;
	return value;
}

int atoi(const char *text)
{
	return strtoul(text, NULL, 10);
}

char *strerror(int error)
{
	(void)error;
	return "error";
}

/* 64 by 32 bits, for which a compiler would want a library. */
uint64_t divide(uint64_t dividend, uint32_t divisor, uint32_t *rest)
{
	uint32_t high = dividend >> 32, low = dividend, first = high / divisor, second;

	__asm__("divl %4" : "=a"(second), "=d"(*rest) : "a"(low), "d"(high % divisor), "rm"(divisor));
	return (uint64_t)first << 32 | second;
}

/* What gcc calls to divide 64 by 64 bits. No divisor of ours is longer than 32. */
uint64_t __udivmoddi4(uint64_t dividend, uint64_t divisor, uint64_t *rest)
{
	uint32_t remainder;
	uint64_t quotient = divide(dividend, divisor, &remainder);

	if (rest)
		*rest = remainder;
	return quotient;
}

static char *number(char *end, uint64_t value, int base)
{
	uint32_t rest;

	do {
		value = divide(value, base, &rest);
		*--end = "0123456789abcdef"[rest];
	} while (value);
	return end;
}

/* %c %s %d %u %x with width, a leading 0, a precision (also *), l and ll: what the agent uses, no more. */
int vsnprintf(char *to, size_t size, const char *format, va_list arguments)
{
	char digits[24];
	size_t length = 0;

#define PUT(c) do { char put = (c); if (length + 1 < size) to[length] = put; length++; } while (0)
	for (; *format; format++) {
		int zero, width = 0, precision = -1, longs = 0, negative = 0, count;
		const char *text = digits;

		if (*format != '%' || *++format == '%') {
			PUT(*format);
			continue;
		}
		zero = *format == '0';
		while (*format >= '0' && *format <= '9')
			width = width * 10 + *format++ - '0';
		if (*format == '.') {
			precision = 0;
			if (*++format == '*') {
				precision = va_arg(arguments, int);
				format++;
			}
			while (*format >= '0' && *format <= '9')
				precision = precision * 10 + *format++ - '0';
		}
		for (; *format == 'l'; format++)
			longs++;
		if (*format == 'c') {
			digits[0] = va_arg(arguments, int);
			count = 1;
		} else if (*format == 's') {
			text = va_arg(arguments, const char *);
			for (count = 0; (precision < 0 || count < precision) && text[count]; count++)
				;
		} else {
			uint64_t value = longs * sizeof(long) > 4 ? va_arg(arguments, uint64_t) : va_arg(arguments, uint32_t);

			if (*format == 'd' && !longs && (int32_t)value < 0) {
				negative = 1;
				value = -(int32_t)value;
			}
			text = number(digits + sizeof(digits), value, *format == 'x' ? 16 : 10);
			count = digits + sizeof(digits) - text;
		}
		if (negative)
			PUT('-');
		for (int fill = count + negative; fill < width; fill++)
			PUT(zero ? '0' : ' ');
		while (count-- > 0)
			PUT(*text++);
	}
#undef PUT
	if (size)
		to[length < size ? length : size - 1] = 0;
	return length;
}

int snprintf(char *to, size_t size, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(to, size, format, arguments);
	va_end(arguments);
	return length;
}

int sprintf(char *to, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(to, 4096, format, arguments);
	va_end(arguments);
	return length;
}
