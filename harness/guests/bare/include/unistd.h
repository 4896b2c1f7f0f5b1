#pragma once
#include <stddef.h>
#include <sys/types.h>
ssize_t write(int fd, const void *data, size_t count);
