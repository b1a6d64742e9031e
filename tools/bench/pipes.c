/* For CRIU's lazy dump where pipes may not have the 3.2 MiB that it asks for (fs.pipe-max-size) and
 * root has no CAP_SYS_RESOURCE: the pipe through which its page server reads gets 1 MiB instead. It
 * needs no more: CRIU's other pipes stay below that when they cannot grow. Built and preloaded by
 * by_hand.py. CRIU 4.2: criu/page-pipe.c, PIPE_MAX_SIZE in criu/include/page-pipe.h. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>

#define ASKED (819 * 4096L)
#define GIVEN (1L << 20)

int fcntl64(int fd, int command, ...)
{
	int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
	va_list rest;
	va_start(rest, command);
	long argument = va_arg(rest, long);
	va_end(rest);
	if (command == F_SETPIPE_SZ && argument == ASKED)
		argument = GIVEN;
	return next(fd, command, argument);
}
