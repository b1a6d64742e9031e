"""Which processes have devices write to their memory behind the page tables' back.

For a read with O_DIRECT the kernel pins the pages, which makes them count as written, and the
device fills them later: a page that was read in between would change without being written. So what
the rounds have found in such a process is read once more when all stands still. open(2),
io_submit(2).
"""

from __future__ import annotations

import os
from contextlib import suppress

_O_DIRECT = os.O_DIRECT
_FIRST_LINES = 64


def direct_io(pid: int) -> bool:
    """Whether *pid* has a file open for direct, or a context for asynchronous, input and output."""
    with suppress(OSError):
        with open(f"/proc/{pid}/maps", "rb") as maps:
            if b"/[aio]" in maps.read():
                return True
        return any(
            _is_direct(f"/proc/{pid}/fdinfo/{fd}") for fd in os.listdir(f"/proc/{pid}/fdinfo")
        )
    return False


def _is_direct(path: str) -> bool:
    """By the line `flags:` of proc_pid_fdinfo(5), which is octal."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _FIRST_LINES)
        finally:
            os.close(fd)
        fields = text.split()
        return bool(int(fields[fields.index(b"flags:") + 1], 8) & _O_DIRECT)
    return False


def has_userfaultfd(pid: int) -> bool:
    """Whether *pid* watches its own memory: what we registered it could not (userfaultfd(2))."""
    with suppress(OSError):
        links = (f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))
        return any(_target(link) == "anon_inode:[userfaultfd]" for link in links)
    return False


def _target(link: str) -> str:
    with suppress(OSError):
        return os.readlink(link)
    return ""
