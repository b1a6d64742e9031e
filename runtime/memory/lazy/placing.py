"""Putting pages into an address space by its userfaultfd, whatever happens to it meanwhile.

ioctl_userfaultfd(2). Pages are never overwritten (EEXIST), so that to put one twice does no harm.
"""

from __future__ import annotations

import errno
import struct
from enum import Enum, auto
from fcntl import ioctl

from runtime.memory import userfaultfd
from runtime.memory.lazy.layout import PAGE

_UFFDIO_WRITEPROTECT = 0xC018AA06
_PROTECT = struct.Struct("3Q")  # struct uffdio_writeprotect: start, len, mode
# Below it nobody maps anything (Documentation/admin-guide/sysctl/vm.rst: mmap_min_addr).
_LOWEST = 1 << 16


class Outcome(Enum):
    """Why putting pages has ended where it has."""

    #: all there
    DONE = auto()
    #: the process is changing its mappings: read its events, then try again
    CHANGING = auto()
    #: nothing is mapped there that belongs to the userfaultfd
    UNMAPPED = auto()
    #: no memory for it now
    SHORT = auto()
    #: the address space has ended
    GONE = auto()
    #: the source does not have it yet
    ABSENT = auto()


_OUTCOMES = {
    errno.EAGAIN: Outcome.CHANGING,
    errno.ENOENT: Outcome.UNMAPPED,
    errno.ENOMEM: Outcome.SHORT,
    errno.ESRCH: Outcome.GONE,
    # as Linux before 4.14 says it
    errno.ENOSPC: Outcome.GONE,
}


def place(uffd: int, start: int, end: int, source: int | None) -> tuple[Outcome, int]:
    """Fill [start, end) from our address *source*, None: with zeros; how it ended, and where.

    All before that address is there. Raises OSError for what no retry can mend.
    """
    at, size = start, end - start
    while at < end:
        length = min(size, end - at)
        try:
            if source is None:
                at += userfaultfd.zero(uffd, at, length)
            else:
                at += userfaultfd.copy(uffd, at, source + at - start, length)
        except OSError as error:
            if error.errno == errno.EEXIST:
                # It is there already: who waits for it can go on.
                userfaultfd.wake(uffd, at, PAGE)
                at += PAGE
            elif error.errno == errno.ENOENT and length > PAGE:
                # One call may not cross from one mapping to the next (mm/userfaultfd.c).
                size = max(length // 2 & ~(PAGE - 1), PAGE)
            elif error.errno in _OUTCOMES:
                return _OUTCOMES[error.errno], at
            else:
                raise
        else:
            size *= 2
    return Outcome.DONE, end


def wake_all(uffd: int) -> None:
    """Let everyone who waits for a page ask again: no answer to an earlier question may come."""
    for bits in (57, 56, 52, 48, 47, 42, 39):
        try:
            userfaultfd.wake(uffd, _LOWEST, (1 << bits) - PAGE - _LOWEST)
        except OSError as error:
            if error.errno != errno.EINVAL:  # beyond the address space
                raise
        else:
            return


def alive(uffd: int) -> bool:
    """Whether *uffd* is of an address space that is still there."""
    # A request to take away a write protection that nobody has set changes nothing.
    try:
        ioctl(uffd, _UFFDIO_WRITEPROTECT, _PROTECT.pack(_LOWEST, PAGE, 0))
    except OSError as error:
        return error.errno not in (errno.ESRCH, errno.ENOSPC, errno.EBADF, errno.ENOTTY)
    return True
