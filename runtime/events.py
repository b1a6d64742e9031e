"""What happens to containers, as events in a queue that heeds descriptors (runtime.supervisor).

epoll(7), eventfd(2).
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import NamedTuple

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
        with ExitStack() as stack:
            # One is taken off for each event: readable as long as there are some.
            flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE
            self._told_fd = os.eventfd(0, flags)
            stack.callback(os.close, self._told_fd)
            self._epoll = stack.enter_context(select.epoll())
            self._epoll.register(self._told_fd, select.EPOLLIN)
            self._stack = stack.pop_all()

    def __bool__(self) -> bool:
        return bool(self._events)

    def close(self) -> None:
        """Forget all; without effect the second time."""
        self._told_fd = -1  # its number may become another file's
        self._stack.close()

    def fileno(self) -> int:
        """Readable when there may be an event."""
        return self._epoll.fileno()

    def tell(self, event: Event) -> None:
        """Add an event; without effect when closed."""
        if self._told_fd >= 0:
            self._events.append(event)
            os.eventfd_write(self._told_fd, 1)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Have *handler* called by `wait` whenever *fd* is readable."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Heed *fd* no longer; without effect the second time."""
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> Event | None:
        """The next event; None when there was none within *timeout_s*."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with suppress(BlockingIOError):
                os.eventfd_read(self._told_fd)
                return self._events.popleft()
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = self._epoll.poll(left_s)
            if not ready:
                return None
            for fd, _ in ready:
                if handler := self._handlers.get(fd):
                    handler()
