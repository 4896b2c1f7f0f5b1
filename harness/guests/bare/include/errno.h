#pragma once
#define errno 0
#define EINTR 4
#define EAGAIN 11
