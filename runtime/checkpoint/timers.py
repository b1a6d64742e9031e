"""Timers of restored processes that CRIU leaves silent for ever (timerfd_create(2)).

A periodic one that has expired is only set again when it is read (fs/timerfd.c): dumped in between,
it has no time left. CRIU sets it to just that (criu/pie/restorer.c: timerfd_arm), which means never
to timerfd_settime(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress

from runtime.oserrors import failing
from runtime.syscalls import pidfd_getfd

_LINK = "anon_inode:[timerfd]"
#: of proc_pid_fdinfo(5): it has ticks to tell, no time left, and an interval
_SILENT = re.compile(rb"ticks: ([1-9]\d*)\n.*\nit_value: \(0, 0\)\nit_interval: \((\d+), (\d+)\)")
#: <linux/timerfd.h>
_SET_TICKS = 0x40085400

_libc = ctypes.CDLL(None, use_errno=True)


def revive(pids: Iterable[int]) -> None:
    """Have such timers of the processes *pids*, which stand still, tick on; none of it is lost.

    Raises SetupFailed, naming the process.
    """
    for pid in pids:
        # It has ended, or is a zombie, or may not be looked into.
        with suppress(ProcessLookupError, FileNotFoundError, PermissionError):
            if silent := list(_silent(pid)):
                with failing(f"setting a timer of process {pid}"):
                    _set_again(pid, silent)


def _silent(pid: int) -> Iterator[tuple[int, int, int, int]]:
    """Descriptor, ticks, and interval in seconds and nanoseconds."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}") == _LINK:
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as info:
                found = _SILENT.search(info.read())
            if found and any(map(int, found.groups()[1:])):
                yield int(name), int(found[1]), int(found[2]), int(found[3])


def _set_again(pid: int, silent: Iterable[tuple[int, int, int, int]]) -> None:
    with ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for number, ticks, *interval in silent:
            fd = pidfd_getfd(pidfd, number)
            stack.callback(os.close, fd)
            setting = struct.pack("4l", *interval, *interval)
            if _libc.timerfd_settime(fd, 0, setting, None):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            fcntl.ioctl(fd, _SET_TICKS, struct.pack("Q", ticks))  # setting it has cleared them
