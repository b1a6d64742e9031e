"""userfaultfd(2) over a descriptor: its ioctls, and the events that are read from it.

Constants and structures are those of linux/userfaultfd.h; addresses and lengths are bytes, page
aligned. Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from ctypes import c_int64, c_uint64
from typing import NamedTuple

# Flag of userfaultfd(2): faults of the kernel itself are not handled. With it no privilege is
# needed, and asynchronous write-protection, which hands no fault to anybody, works all the same.
USER_MODE_ONLY = 1

API = 0xAA
EVENT_FORK = 1 << 1
EVENT_REMAP = 1 << 2
EVENT_REMOVE = 1 << 3
EVENT_UNMAP = 1 << 6
WP_UNPOPULATED = 1 << 13
WP_ASYNC = 1 << 15

MODE_MISSING = 1 << 0
MODE_WP = 1 << 1

_IOCTL_API = 0xC018AA3F
_IOCTL_REGISTER = 0xC020AA00
_IOCTL_UNREGISTER = 0x8010AA01
_IOCTL_WAKE = 0x8010AA02
_IOCTL_COPY = 0xC028AA03
_IOCTL_ZEROPAGE = 0xC020AA04

MESSAGE_BYTES = 32
_MESSAGE = struct.Struct("=B7xQQQ")
_PAGEFAULT, _FORK, _REMAP, _REMOVE, _UNMAP = range(0x12, 0x17)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def is_for_everybody() -> bool:
    """Whether root of a user namespace may have one that handles the faults of the kernel too.

    CRIU asks for no other. proc_sys_vm(5).
    """
    try:
        with open("/proc/sys/vm/unprivileged_userfaultfd") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


class _Api(ctypes.Structure):
    _fields_ = (("api", c_uint64), ("features", c_uint64), ("ioctls", c_uint64))


class _Range(ctypes.Structure):
    _fields_ = (("start", c_uint64), ("len", c_uint64))


class _Register(ctypes.Structure):
    _fields_ = (("start", c_uint64), ("len", c_uint64), ("mode", c_uint64), ("ioctls", c_uint64))


class _Copy(ctypes.Structure):
    _fields_ = (
        ("dst", c_uint64),
        ("src", c_uint64),
        ("len", c_uint64),
        ("mode", c_uint64),
        ("copied", c_int64),
    )


class _Zeropage(ctypes.Structure):
    _fields_ = (("start", c_uint64), ("len", c_uint64), ("mode", c_uint64), ("zeroed", c_int64))


class Pagefault(NamedTuple):
    """A task waits at *address* (page aligned); *flags*: UFFD_PAGEFAULT_FLAG_*."""

    flags: int
    address: int


class Fork(NamedTuple):
    """*fd*: the userfaultfd of the child, ours now."""

    fd: int


class Remap(NamedTuple):
    """*size* bytes have moved *old* -> *new* (mremap(2))."""

    old: int
    new: int
    size: int


class Remove(NamedTuple):
    """Pages of a mapping that stays were dropped (madvise(2))."""

    start: int
    end: int


class Unmap(NamedTuple):
    """The mapping is gone."""

    start: int
    end: int


Event = Pagefault | Fork | Remap | Remove | Unmap


def api(fd: int, features: int) -> int:
    """Shake hands and enable *features*; returns those that the kernel has.

    Must come first, and once. EINVAL: one of them is not known to this kernel.
    """
    request = _Api(api=API, features=features)
    _ioctl(fd, _IOCTL_API, request)
    return int(request.features)


def register(fd: int, start: int, length: int, mode: int) -> None:
    """Watch the mappings in a range, which may have holes; those that *fd* watches stay as are.

    EBUSY: another userfaultfd has part of it. EINVAL: part of it cannot be watched, or nothing is
    mapped there. Nothing is changed then.
    """
    _ioctl(fd, _IOCTL_REGISTER, _Register(start=start, len=length, mode=mode))


def unregister(fd: int, start: int, length: int) -> None:
    """Stop watching, take write-protection off, wake who waits."""
    _ioctl(fd, _IOCTL_UNREGISTER, _Range(start=start, len=length))


def copy(fd: int, dst: int, src_addr: int, length: int) -> int:
    """Fill missing pages at *dst* of the watched memory from *src_addr* in ours, and wake.

    Returns the bytes that were filled: less than *length* where a page was there already or the
    memory is being changed; go on behind them, and the error shows. Raises OSError when the first
    page could not be filled: EEXIST it is there already; EAGAIN an event has to be read first;
    ENOENT nothing is mapped there now; ESRCH the process is gone.
    """
    request = _Copy(dst=dst, src=src_addr, len=length)
    return _partial(_libc.ioctl(fd, _IOCTL_COPY, ctypes.byref(request)), request.copied)


def zero(fd: int, start: int, length: int) -> int:
    """Fill missing pages with zeros, and wake; returns and raises as copy."""
    request = _Zeropage(start=start, len=length)
    return _partial(_libc.ioctl(fd, _IOCTL_ZEROPAGE, ctypes.byref(request)), request.zeroed)


def wake(fd: int, start: int, length: int) -> None:
    """Have tasks that wait for pages of the range look again."""
    _ioctl(fd, _IOCTL_WAKE, _Range(start=start, len=length))


def events(data: bytes) -> Iterator[Event]:
    """What was read from the descriptor: whole messages of MESSAGE_BYTES each."""
    for kind, first, second, third in _MESSAGE.iter_unpack(data):
        if kind == _PAGEFAULT:
            yield Pagefault(first, second)
        elif kind == _FORK:
            yield Fork(first & 0xFFFF_FFFF)
        elif kind == _REMAP:
            yield Remap(first, second, third)
        elif kind in (_REMOVE, _UNMAP):
            yield (Remove if kind == _REMOVE else Unmap)(first, second)
        else:
            raise ValueError(f"userfaultfd event {kind:#x} is not known")


def _partial(result: int, done: int) -> int:
    if result == 0 or done > 0:
        return done
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _ioctl(fd: int, request: int, argument: ctypes.Structure) -> None:
    if _libc.ioctl(fd, request, ctypes.byref(argument)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
