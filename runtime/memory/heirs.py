"""Userfaultfds for processes that may have none: they inherit those of the criu that forks them.

To root of a user namespace the kernel gives no userfaultfd that sees the faults of the kernel too,
unless vm.unprivileged_userfaultfd is 1; and nobody but a process itself can ask for one of its
memory. But memory that is watched with UFFD_FEATURE_EVENT_FORK stays so in a child, whoever that
is: who reads the events is given a userfaultfd of the child's memory, with the powers of the first
(userfaultfd(2); fs/userfaultfd.c: dup_userfaultfd). So criu, which is root's, is made to watch an
empty mapping of its own before it forks the processes of the container. The mapping ends in each of
them when CRIU puts theirs in its place; the userfaultfd is of the address space, and stays.

What is to be filled later is watched once all mappings are there and nothing of the container has
run. Until then it has to stay empty: CRIU is not told of those pages, those that the kernel writes
to by itself (rseq(2)) are not among them, and none is made a huge one (PR_SET_THP_DISABLE).
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Mapping
from contextlib import suppress

from runtime.memory import maps, userfaultfd
from runtime.memory.injection import map_nothing, take_userfaultfd
from runtime.memory.pagemap import Pagemap
from runtime.memory.runs import PAGE, Run, intersect
from runtime.threads import in_a_thread

# Those that CRIU has the kernel tell a lazy-pages server (criu/include/uffd.h).
_FEATURES = (
    userfaultfd.EVENT_FORK
    | userfaultfd.EVENT_REMAP
    | userfaultfd.EVENT_REMOVE
    | userfaultfd.EVENT_UNMAP
)
_EVENTS_AT_ONCE = 16
# Nobody waits for what criu does yet: a busy machine may take its time.
_PATIENCE_S = 10.0


class Heirs:
    """The userfaultfds of all that a process forks; each fork of it waits for us until `watch`."""

    def __init__(self, pid: int) -> None:
        """pid: a child of ours, in no system call that must not be interrupted.

        Raises OSError: see runtime.memory.injection.take_userfaultfd.
        """
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
            fd = mem.fileno()
            self._address = in_a_thread(
                lambda: map_nothing(pid, fd, PAGE, timeout_s=_PATIENCE_S), name="heirs"
            )
            self._own, _ = in_a_thread(
                lambda: take_userfaultfd(pid, fd, flags=0, timeout_s=_PATIENCE_S), name="heirs"
            )
        self._fds: list[int] = []
        self._unclaimed: list[int] = []
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        userfaultfd.api(self._own, _FEATURES)
        userfaultfd.register(self._own, self._address, PAGE, userfaultfd.MODE_MISSING)
        self._thread = threading.Thread(target=self._follow, name="heirs", daemon=True)
        self._thread.start()

    def watch(self, lazy: Mapping[int, list[Run]]) -> dict[int, int]:
        """Have faults in *lazy* wait for a server: pid -> its userfaultfd, ours until `close`.

        lazy: what is missing in each process; all have their mappings, and stand still. Forks are
        no longer followed. Raises OSError: EBUSY where something is there already, ESRCH for a
        process that was not forked since.
        """
        self._end()
        self._unclaimed = list(self._fds)
        return {pid: self._watch(pid, runs) for pid, runs in lazy.items() if runs}

    def close(self) -> None:
        """Let go of all: what is still watched then would read zeros."""
        self._end()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _watch(self, pid: int, runs: list[Run]) -> int:
        """Its userfaultfd."""
        mappings = [
            (each.start, each.end)
            for each in maps.of_process(pid)
            if each.anonymous and intersect([(each.start, each.end)], runs)
        ]
        if not mappings:
            raise ProcessLookupError(errno.ESRCH, "it has not the memory", f"process {pid}")
        fd = self._of(pid, mappings[0])
        for mapping in mappings[1:]:
            _register(fd, mapping)
        with Pagemap(pid) as pagemap:
            for start, end in runs:
                if pagemap.occupied(start, end):
                    raise OSError(errno.EBUSY, f"something is at {start:#x}", f"process {pid}")
        return fd

    def _of(self, pid: int, mapping: Run) -> int:
        """Which is that of *pid*: it watches *mapping* in there once it is asked to."""
        for fd in self._unclaimed:
            # of another process: nothing is there; it has ended; it is watched for that one
            with suppress(OSError):
                _register(fd, mapping)
                if _is_watched(pid, mapping):
                    self._unclaimed.remove(fd)
                    return fd
                userfaultfd.unregister(fd, mapping[0], mapping[1] - mapping[0])
        raise ProcessLookupError(errno.ESRCH, "it has inherited no userfaultfd", f"process {pid}")

    def _follow(self) -> None:
        poll = select.poll()
        for fd in (self._stop, self._own):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, what in poll.poll():
                if fd == self._stop:
                    return
                if what != select.POLLIN:
                    poll.unregister(fd)
                    continue
                for child in _forked(fd):
                    self._fds.append(child)
                    poll.register(child, select.POLLIN)

    def _end(self) -> None:
        """Follow no more forks."""
        if self._stop < 0:
            return
        with suppress(OSError):  # it has ended
            userfaultfd.unregister(self._own, self._address, PAGE)
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for fd in (self._own, self._stop):
            os.close(fd)
        self._own = self._stop = -1


def _forked(fd: int) -> list[int]:
    """The userfaultfds of children, of what is to be read; the end of a mapping is no news."""
    try:
        data = os.read(fd, _EVENTS_AT_ONCE * userfaultfd.MESSAGE_BYTES)
    except BlockingIOError:
        return []
    events = userfaultfd.events(data)
    return [each.fd for each in events if isinstance(each, userfaultfd.Fork)]


def _register(fd: int, mapping: Run) -> None:
    userfaultfd.register(fd, mapping[0], mapping[1] - mapping[0], userfaultfd.MODE_MISSING)


def _is_watched(pid: int, mapping: Run) -> bool:
    """Whether missing pages of the mapping at *mapping* are waited for (VmFlags: um)."""
    with open(f"/proc/{pid}/smaps", "rb") as smaps:
        inside = False
        for line in smaps:
            if found := maps.addresses(line):
                inside = found[0] <= mapping[0] < found[1]
            elif inside and line.startswith(b"VmFlags:"):
                return b" um" in line
    return False
