"""An address space that is followed: its mappings, its pages, and its content.

All descriptors stay with the address space that the process had when they were opened: an exec
leaves them with nothing to read, and the process gets a new space.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from runtime.memory import maps
from runtime.memory.maps import Mapping
from runtime.memory.pagemap import Pagemap
from runtime.memory.registers import machine
from runtime.memory.runs import Run, minus, normalized
from runtime.state import stat_fields

_KCMP_VM = 1
# Of stat_fields: start time, start of code, stack and brk
_IDENTITY = (19, 23, 25, 44)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Space:
    """One address space; of this class itself: one that nothing is known about.

    What nothing is known about is dirty, whatever it is: `written` returns all that is there. Each
    way of tracking has a class of its own below this one.
    """

    def __init__(self, pid: int) -> None:
        """Raises OSError: the process is gone, or we may not look into it (ptrace(2))."""
        self.id = 0
        self.pid = pid
        self.identity = identity(pid)
        self.start_time = self.identity[0]
        # Why nothing is known about it, for the report, and whether that may be otherwise soon.
        self.untracked: str | None = None
        # When, and what, a round has found where a device may have gone on writing.
        self.in_flight: list[tuple[float, list[Run]]] = []
        self.passing = False
        with ExitStack() as stack:
            self._maps_fd = _opened(stack, f"/proc/{pid}/maps")
            self.mem_fd = _opened(stack, f"/proc/{pid}/mem")
            self.pagemap = stack.enter_context(Pagemap(pid))
            # An exec in between would have left the first one with nothing.
            if not self.exists():
                raise ProcessLookupError(errno.ESRCH, "has no memory", f"process {pid}")
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def on_close(self, undo: Callable[[], None]) -> None:
        self._stack.callback(undo)

    def read_into(self, view: memoryview | bytearray, start: int) -> int:
        """Read content from *start* on; bytes read: short at a hole, 0 at one or if it is gone."""
        try:
            return os.preadv(self.mem_fd, [view], start)
        except OSError as exc:
            if exc.errno in (errno.EIO, errno.EFAULT, errno.ESRCH):
                return 0
            raise

    def mappings(self) -> list[Mapping]:
        """All of them; none if it is gone."""
        return maps.parse(self.text())

    def exists(self) -> bool:
        """Whether anybody still has this memory: neither ended nor executed another program."""
        os.lseek(self._maps_fd, 0, os.SEEK_SET)
        return bool(os.read(self._maps_fd, 1))

    def text(self) -> bytes:
        """Of /proc/PID/maps; empty if it is gone."""
        with suppress(ProcessLookupError):
            return maps.text_of(self._maps_fd)
        return b""

    def own(self, text: bytes) -> list[list[Run]]:
        """Mappings that are private, of no file, and not locked: lazy for CRIU.

        One run each, in groups that no other mapping lies between.
        """
        groups = maps.anonymous_groups(text)
        if not _locks_memory(self.pid):
            return groups
        with suppress(OSError):
            locked = normalized(maps.locked_runs(Path(f"/proc/{self.pid}/smaps").read_bytes()))
            runs = (run for group in groups for run in group)
            return [[part] for run in runs for part in minus([run], locked)]
        return groups

    def written(self, own: list[list[Run]], *, final: bool) -> list[Run]:
        """Pages of the mappings *own* that are not known to be as they were last time.

        final: nobody runs any more, and no next time comes. Raises OSError only if it is gone.
        """
        return self.all_of(own)

    def all_of(self, own: list[list[Run]]) -> list[Run]:
        """All pages of these mappings, which are of no file, that are there."""
        return normalized(
            (low, high)
            for start, end in normalized(run for group in own for run in group)
            for low, high, _ in self.pagemap.present(start, end, anonymous=True)
        )


def identity(pid: int) -> tuple[int, ...]:
    """Start time and layout of the process: all of it changes with another one, some by an exec."""
    fields = stat_fields(pid)
    return tuple(int(fields[index]) for index in _IDENTITY)


def shares_memory(pid: int, other: int) -> bool:
    """Whether two processes have one address space, as between vfork(2) and exec (kcmp(2))."""
    here = machine()
    if here is None:
        return False
    call = (ctypes.c_long(here.kcmp), ctypes.c_int(pid), ctypes.c_int(other))
    return bool(
        _libc.syscall(*call, ctypes.c_int(_KCMP_VM), ctypes.c_ulong(), ctypes.c_ulong()) == 0
    )


def parent(pid: int) -> int:
    """Raises OSError when it is gone."""
    return int(stat_fields(pid)[1])


def _opened(stack: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _locks_memory(pid: int) -> bool:
    """Whether any mapping is locked: smaps tells which, but is too slow to be asked always."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    amount = status.partition(b"\nVmLck:")[2].split(None, 1)
    return bool(amount) and amount[0] != b"0"
