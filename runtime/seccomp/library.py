"""libseccomp, as far as a filter is made with it: seccomp_init(3), seccomp_rule_add_array(3), ...

Only the runtime loads it, never a process on its way into a container: that gets the finished
program of the kernel's classic BPF.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import NamedTuple, Self

_FILE = "libseccomp.so.2"
#: the first that knows SCMP_ACT_NOTIFY and the binary tree
_NEEDED = (2, 5)
_REMEDY = "apt-get install libseccomp2 (Debian, Ubuntu) or dnf install libseccomp (Fedora)"

_ATTRIBUTE_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE = 2
_UNKNOWN = -1  # __NR_SCMP_ERROR

# x32 has the numbers of x86-64 with one more bit, and is told from it by that alone.
_X32_BIT = 0x4000_0000
_LAST_NUMBER = 0x7FFF_FFFF


class LibraryMissing(Exception):
    """libseccomp is not here, or too old; the message has the remedy."""


class Condition(NamedTuple):
    """A comparison of one argument of a call; of a masked one *first* is the mask."""

    argument: int
    operator: int
    first: int
    second: int


class NewNumbers(NamedTuple):
    """The numbers of an architecture's calls that a profile is older than, both ends in."""

    #: AUDIT_ARCH_* of linux/audit.h, as the kernel gives it to a filter
    architecture: int
    low: int
    high: int


class _Condition(ctypes.Structure):
    # struct scmp_arg_cmp
    _fields_ = (
        ("arg", c_uint),
        ("op", c_int),
        ("datum_a", c_uint64),
        ("datum_b", c_uint64),
    )


class _Version(ctypes.Structure):
    # struct scmp_version
    _fields_ = (("major", c_uint), ("minor", c_uint), ("micro", c_uint))


@cache
def load() -> ctypes.CDLL:
    """The library, with the types of what is called. Raises LibraryMissing."""
    try:
        library = ctypes.CDLL(_FILE)
    except OSError:
        raise LibraryMissing(f"needs {_FILE}, which is not installed: {_REMEDY}") from None
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    version = library.seccomp_version().contents
    if (version.major, version.minor) < _NEEDED:
        found = f"{version.major}.{version.minor}.{version.micro}"
        raise LibraryMissing(f"needs libseccomp 2.5 or newer, found {found}: {_REMEDY}")
    library.seccomp_init.argtypes = (c_uint32,)
    library.seccomp_init.restype = c_void_p
    library.seccomp_release.argtypes = (c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_arch_native.restype = c_uint32
    library.seccomp_arch_resolve_name.restype = c_uint32
    library.seccomp_arch_add.argtypes = (c_void_p, c_uint32)
    library.seccomp_syscall_resolve_name_arch.argtypes = (c_uint32, c_char_p)
    library.seccomp_attr_set.argtypes = (c_void_p, c_int, c_uint32)
    library.seccomp_rule_add_array.argtypes = (c_void_p, c_uint32, c_int, c_uint, c_void_p)
    library.seccomp_export_bpf.argtypes = (c_void_p, c_int)
    return library


class Filter:
    """A filter being made, for this machine's architecture at least; a context manager."""

    def __init__(self, default_action: int) -> None:
        self._library = load()
        self._context = self._library.seccomp_init(default_action)
        if not self._context:
            raise OSError(errno.EINVAL, "the kernel does not know the default action")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._context)

    def add_architecture(self, name: str) -> None:
        """Filter the calls of architecture *name* too. Raises OSError for one that cannot be."""
        token = _token(name)
        if not token:
            raise OSError(errno.EINVAL, "libseccomp does not know this architecture")
        result = self._library.seccomp_arch_add(self._context, token)
        if result == -errno.EDOM:
            raise OSError(errno.EDOM, "has another byte order than this machine")
        if result != -errno.EEXIST:
            _check(result)

    def add_rule(self, action: int, number: int, conditions: Sequence[Condition]) -> None:
        """Do *action* at call *number* where all *conditions* hold, each of another argument.

        Where an architecture has no such call the rule means nothing there. Raises OSError.
        """
        array = (_Condition * len(conditions))(*(_Condition(*each) for each in conditions))
        count = len(conditions)
        _check(self._library.seccomp_rule_add_array(self._context, action, number, count, array))

    def use_binary_tree(self) -> None:
        """Have a call's number searched for by halves, not one after the other."""
        _check(self._library.seccomp_attr_set(self._context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE))

    def export(self) -> bytes:
        """The program: struct sock_filter of linux/filter.h, one after the other."""
        fd = os.memfd_create("seccomp filter", os.MFD_CLOEXEC)
        try:
            _check(self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)


def number_of(call: str) -> int | None:
    """The number of system call *call* here; None for one that libseccomp does not know.

    A negative one stands for a call of other architectures only.
    """
    number: int = load().seccomp_syscall_resolve_name(call.encode())
    return None if number == _UNKNOWN else number


def new_numbers(architecture: str | None, calls: Iterable[str]) -> NewNumbers | None:
    """What *architecture* (None: this machine's) has beyond the last of *calls*; None: unknown."""
    library = load()
    token = library.seccomp_arch_native() if architecture is None else _token(architecture)
    resolve = library.seccomp_syscall_resolve_name_arch
    last = max((resolve(token, name.encode()) for name in calls), default=0)
    if last <= 0:  # negative: a call of other architectures only
        return None
    seen = _token("x86_64") if architecture == "x32" else token
    is_x86_64 = token == _token("x86_64")
    return NewNumbers(seen, last + 1, _X32_BIT - 1 if is_x86_64 else _LAST_NUMBER)


def _token(architecture: str) -> int:
    return int(load().seccomp_arch_resolve_name(architecture.encode()))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
