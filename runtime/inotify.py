"""Changes of files as a descriptor to wait for (inotify(7)), for which Python has no module."""

from __future__ import annotations

import ctypes
import os

IN_MODIFY = 0x2  # linux/inotify.h

_libc = ctypes.CDLL(None, use_errno=True)


def inotify_init() -> int:
    """A new descriptor; reading from it does not block."""
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise _last_error()
    return fd


def inotify_add_watch(fd: int, path: str, events: int) -> None:
    """Have *fd* become readable with *events* of *path*."""
    if _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(events)) < 0:
        raise _last_error(path)


def _last_error(path: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
