"""Being told of what happens to a container's memory: libcontainer's NotifyOOM and the like.

v1: an eventfd, registered by cgroup.event_control (cgroup-v1/memory.rst, sections 9 to 11).
v2: memory.events, whose changes inotify tells of (cgroup-v2.rst, "memory.events").
"""

from __future__ import annotations

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import pidfd
from runtime.cgroups import counters, tree
from runtime.errors import CgroupError, NotRunning
from runtime.held import Closing, Descriptor, Heeded
from runtime.inotify import IN_MODIFY, inotify_add_watch, inotify_init
from runtime.oserrors import failing

if TYPE_CHECKING:
    from runtime.container import Container

_BUFFER_BYTES = 4096


class PressureLevel(StrEnum):
    """How hard it is to find memory: each level tells of the higher ones too.

    v1: low, it is reclaimed; medium, it is swapped or active files' pages go; critical, the OOM
    killer is near. v2 has no such levels: low, memory.high or memory.max was reached; medium,
    memory.max was; critical, reclaiming did not help.
    """

    LOW = "low"
    MEDIUM = "medium"
    CRITICAL = "critical"


_V2_KEYS = {
    PressureLevel.LOW: ("high", "max", "oom"),
    PressureLevel.MEDIUM: ("max", "oom"),
    PressureLevel.CRITICAL: ("oom",),
}


class Source(Descriptor, ABC):
    """A descriptor that becomes readable with an event, and counts them."""

    @abstractmethod
    def count(self) -> int:
        """How many events there were since the last call."""


class EventControl(Source):
    """An event of a v1 memory cgroup."""

    def __init__(self, directory: Path, file: str, argument: str = "") -> None:
        """file: memory.oom_control or memory.pressure_level. Raises CgroupError."""
        super().__init__(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._directory, self._inode = directory, _inode(directory)
        with tree.opened(directory / file) as control_fd:
            registration = f"{self.fd} {control_fd} {argument}".rstrip()
            tree.write(directory / "cgroup.event_control", registration)

    def count(self) -> int:
        try:
            events = os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0
        # When a cgroup is removed, the kernel signals each of its eventfds once; there may be
        # another one of its name since.
        return events if _inode(self._directory) == self._inode else max(events - 1, 0)


def _inode(directory: Path) -> int:
    """0 when it is not there."""
    try:
        return directory.stat().st_ino
    except OSError:
        return 0


class EventsFile(Source):
    """Counters of a v2 memory cgroup's memory.events."""

    def __init__(self, directory: Path, keys: tuple[str, ...]) -> None:
        """keys: those of memory.events that count. Raises CgroupError."""
        super().__init__(inotify_init())
        self._path, self._keys = directory / "memory.events", keys
        tree.read(self._path)
        inotify_add_watch(self.fd, str(self._path), IN_MODIFY)
        self._seen = self._total()

    def count(self) -> int:
        try:
            os.read(self.fd, _BUFFER_BYTES)
        except BlockingIOError:
            return 0
        seen, self._seen = self._seen, max(self._seen, self._total())
        return self._seen - seen

    def _total(self) -> int:
        found = counters.flat_keyed(tree.read_some(self._path))
        return sum(found.get(key, 0) for key in self._keys)


class Notifications(Closing):
    """Events of one kind, until the container has ended: a context manager, and an iterator.

    `fileno` is readable when there is something to learn, for a loop of the caller's own.
    """

    def __init__(self, source: Source, init_pidfd: int) -> None:
        """Takes both descriptors over; *init_pidfd* is the container's first process."""
        self.ended = False
        init, heeded = Descriptor(init_pidfd), Heeded()
        for each in (source, init):
            heeded.epoll.register(each.fd, select.EPOLLIN)
        #: None once it is closed
        self._held: tuple[Source, Descriptor, Heeded] | None = (source, init, heeded)

    def close(self) -> None:
        """Be told of nothing more, and have nobody wait; without effect the second time."""
        held, self._held = self._held, None
        if held:
            held[-1].wake()

    def fileno(self) -> int:
        """A descriptor to wait for; ask with `wait(0)` then. -1 when closed."""
        return self._held[-1].epoll.fileno() if self._held else -1

    def wait(self, timeout_s: float | None = None) -> int:
        """How many events came, at once when there were some before.

        0 after *timeout_s*, when closed, or when the container has ended: `ended` says so.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while held := self._held:
            source, init, heeded = held
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = [fd for fd, _ in heeded.epoll.poll(left_s)]
            self.ended = self.ended or init.fd in ready
            # What ended the container came before its end: asked for last. On v2 one file tells
            # of many things, and may have changed for another one.
            if (count := source.count()) or self.ended or not ready:
                return count
        return 0

    def __iter__(self) -> Iterator[None]:
        """Once for each event; ends with the container."""
        while self._held and not self.ended:
            for _ in range(self.wait()):
                yield None


def watch(container: Container, source: Callable[[Mapping[str, Path]], Source]) -> Notifications:
    """Be told of what *source* tells of *container*, which is asked for its cgroups; NotRunning."""
    with (
        failing(f"watching the memory of container {container.id}"),
        pidfd.init_of(container.state) as init,
    ):
        if init is None:
            raise NotRunning(container.id, container.status())
        return Notifications(source(container.cgroup.paths), os.dup(init))


def oom_source(paths: Mapping[str, Path]) -> Source:
    """What tells that the OOM killer was called for; *paths* as of a CgroupManager."""
    if "" in paths:
        return EventsFile(paths[""], ("oom_kill",))
    return EventControl(_memory(paths), "memory.oom_control")


def pressure_source(paths: Mapping[str, Path], level: PressureLevel) -> Source:
    """What tells that memory has become scarce."""
    if "" in paths:
        return EventsFile(paths[""], _V2_KEYS[level])
    return EventControl(_memory(paths), "memory.pressure_level", str(level))


def _memory(paths: Mapping[str, Path]) -> Path:
    if "memory" not in paths:
        raise CgroupError("controller memory", "is not there: nobody tells when memory is short")
    return paths["memory"]
