"""What happens to containers, as events in a queue that heeds descriptors (runtime.supervisor)."""

from __future__ import annotations

import select
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from runtime.held import Heeded

#: the name of a container's first process
INIT = "init"


class Change(StrEnum):
    """What can happen to a container; named as libcontainerd's states where it has one."""

    CREATE = "create"
    START = "start-container"
    RESTART = "restart"
    RESTORE = "restore"
    START_PROCESS = "start-process"
    EXIT_PROCESS = "exit-process"
    PAUSE = "pause"
    RESUME = "resume"
    OOM = "oom"
    CHECKPOINT = "checkpoint"
    EXIT = "exit"
    DELETE = "delete"


class Event(NamedTuple):
    """That something happened (libcontainerd's StateInfo)."""

    container_id: str
    change: Change
    #: the process that it happened to
    process: str = INIT
    pid: int = 0
    #: of one that has ended, as a shell reports it; None for who was started by another program
    exit_status: int | None = None
    #: whether the OOM killer was in the container, at its exit
    oom_killed: bool = False


class EventQueue:
    """Events, and descriptors whose handlers make some; to be told and heeded by any thread."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._handlers: dict[int, Callable[[], None]] = {}
        #: held where an event comes or goes, and what says so with it
        self._lock = RLock()
        self._heeded: Heeded | None = Heeded()

    def __bool__(self) -> bool:
        return bool(self._events)

    def close(self) -> None:
        """Forget all, and have nobody wait; without effect the second time."""
        with self._lock:
            self._events.clear()
            self._handlers.clear()
            if self._heeded:
                self._heeded.wake()
                self._heeded = None

    def fileno(self) -> int:
        """Readable when there may be an event; -1 when closed."""
        return self._heeded.epoll.fileno() if self._heeded else -1

    def tell(self, event: Event) -> None:
        """Add an event; without effect when closed."""
        with self._lock:
            if self._heeded:
                self._events.append(event)
                self._heeded.wake()

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Have *handler* called by `wait` whenever *fd* is readable; without effect when closed."""
        if heeded := self._heeded:
            self.unwatch(fd)
            self._handlers[fd] = handler
            heeded.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Heed *fd* no longer; without effect the second time."""
        if self._handlers.pop(fd, None) and (heeded := self._heeded):
            heeded.epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> Event | None:
        """The next event; None when there was none within *timeout_s*, or when closed."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while heeded := self._heeded:
            if event := self._take():
                return event
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = heeded.epoll.poll(left_s)
            if not ready:
                return None
            for fd, _ in ready:
                if handler := self._handlers.get(fd):
                    handler()
        return None

    def _take(self) -> Event | None:
        with self._lock:
            event = self._events.popleft() if self._events else None
            if not self._events and self._heeded:
                self._heeded.calm()
            return event
