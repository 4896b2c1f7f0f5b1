/* The agent's side of the line protocol (frames.py describes it): checksums, numbered parts, free text. */
#include "agent.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPLY_SIZE 65536
#define PART_SIZE 400             /* short parts: kernel noise then costs little to repeat */

int in_fd = 0, out_fd = 1;
static char reply[REPLY_SIZE];
static int reply_length;

static void write_all(const char *text, int length)
{
	while (length > 0) {
		ssize_t n = write(out_fd, text, length);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return;
		if (n > 0)
			text += n, length -= n;
	}
}

static uint32_t crc32_of(const char *data, int length)
{
	uint32_t crc = 0xffffffff;

	while (length--) {
		crc ^= (uint8_t)*data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
	}
	return ~crc;
}

static void send_parts(unsigned long sequence, const char *payload, int length)
{
	int parts = length ? (length + PART_SIZE - 1) / PART_SIZE : 1;
	char line[PART_SIZE + 80];

	for (int part = 1; part <= parts; part++) {
		int size = length < PART_SIZE ? length : PART_SIZE;
		int n = sprintf(line, "@<%lu.%d/%d %.*s", sequence, part, parts, size, payload);

		n += sprintf(line + n, "*%08x\r\n", crc32_of(line + 2, n - 2));
		write_all(line, n);
		payload += size;
		length -= size;
	}
}

/* Appends to the reply; what would not fit is cut (the host sees a payload that it refuses). */
void say(const char *format, ...)
{
	va_list arguments;
	int room = REPLY_SIZE - reply_length;

	va_start(arguments, format);
	int n = vsnprintf(reply + reply_length, room, format, arguments);
	va_end(arguments);
	reply_length += n < room ? n : room - 1;
}

static int is_plain(unsigned char c)
{
	return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("-_.,:/+", c));
}

/* Free text as one token: what could be taken for framing or for a space becomes %XX. */
void say_token(const char *text, int length)
{
	for (int i = 0; i < length; i++) {
		unsigned char c = text[i];

		say(is_plain(c) ? "%c" : "%%%02x", c);
	}
}

int reply_begun(void)
{
	return reply_length != 0;
}

void forget_reply(void)
{
	reply_length = 0;
}

/* Sends the reply as it was gathered; it stays, to be sent again when the host asks. */
void send_reply(unsigned long sequence)
{
	send_parts(sequence, reply, reply_length);
}

/* Sends a line that answers no particular command, under number 0. */
void send_line(const char *payload)
{
	send_parts(0, payload, strlen(payload));
}

/*
 * The payload of "@>SEQUENCE PAYLOAD*CRC", or NULL. A damaged line is answered and has no other effect; an
 * empty line or an echo of our own words gets no answer.
 */
char *framed_command(char *line, unsigned long *sequence)
{
	char *frame = NULL, *star = strrchr(line, '*'), *payload;

	if (!*line || strstr(line, "@<"))
		return NULL;
	for (char *next = line; (next = strstr(next, "@>")); next += 2)
		frame = next + 2;
	if (frame && star && star > frame && strlen(star) == 9
	    && strtoul(star + 1, NULL, 16) == crc32_of(frame, star - frame)) {
		*star = 0;
		*sequence = strtoul(frame, &payload, 10);
		if (payload > frame && *payload == ' ')
			return payload + 1;
	}
	send_line("no damaged");
	return NULL;
}
