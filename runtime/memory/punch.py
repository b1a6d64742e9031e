"""Giving the middle of a file back to the filesystem: fallocate(2), which the os module lacks."""

from __future__ import annotations

import ctypes
import errno
import os

# linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Free *length* bytes of the file at *offset*, where its filesystem can. Raises OSError."""
    how = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _libc.fallocate(fd, how, offset, length) < 0:
        number = ctypes.get_errno()
        if number == errno.EOPNOTSUPP:
            return
        raise OSError(number, f"cannot free a part of a file: {os.strerror(number)}")
