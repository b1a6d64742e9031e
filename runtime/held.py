"""What has to be let go of: at the end of a block, or with the last who holds it."""

from __future__ import annotations

import os
import select
import signal
from _thread import RLock
from _weakref import ref  # weakref: 2 ms
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar, Self

from runtime import pidfd
from runtime.state import process_stat


class Closing(ABC):
    """A context manager that closes itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; without effect the second time."""


class Descriptor:
    """A file descriptor that is closed with the last reference to this.

    What one thread closes may be another file, of the same number, before another thread uses it:
    so whoever uses it refers to it as long.
    """

    def __init__(self, fd: int) -> None:
        """Takes it over."""
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Heeded:
    """What one waits for, open as long as somebody does, who can be woken: epoll(7), eventfd(2)."""

    def __init__(self) -> None:
        self._told = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self.epoll = select.epoll()
        self.epoll.register(self._told.fd, select.EPOLLIN)

    def wake(self) -> None:
        """Let nobody wait until `calm`."""
        os.eventfd_write(self._told.fd, 1)

    def calm(self) -> None:
        """Let them wait again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._told.fd)


class Held(Descriptor):
    """A process by its pidfd, so never another one of the same pid; shared by all who hold it.

    The kernel tells a program once how its child has ended: all who hold it then learn it.
    """

    _by_pid: ClassVar[dict[int, ref[Held]]] = {}
    _finding: ClassVar[RLock] = RLock()

    def __init__(self, pid: int, pidfd_: int, start_time: int = 0) -> None:
        """Takes the descriptor over; start_time: 0 when nobody will ask for it by that."""
        super().__init__(pidfd_)
        self.pid, self._start_time = pid, start_time
        self._exit_status: int | None = None
        self._asking = RLock()
        self._entry = self._by_pid[pid] = ref(self)

    def __del__(self) -> None:
        if self._by_pid.get(self.pid) is self._entry:
            del self._by_pid[self.pid]
        super().__del__()

    @classmethod
    def _known(cls, pid: int) -> Held | None:
        entry = cls._by_pid.get(pid)
        return entry() if entry else None

    @classmethod
    def of(cls, pid: int, start_time: int) -> Held | None:
        """The process *pid* if it started then, and is not yet waited for; 0: there is none."""
        with cls._finding, suppress(ProcessLookupError):
            held = cls._known(pid)
            if pid and not (held and held._start_time == start_time):
                held = cls(pid, os.pidfd_open(pid), start_time)
        # Asked after opening: whatever the descriptor holds now had this pid then.
        stat = process_stat(pid)
        return held if stat and stat.start_time == start_time else None

    @classmethod
    def reap(cls, pid: int) -> None:
        """Take the exit status of *pid* away if it is a child of ours that has ended."""
        if held := cls._known(pid):
            held.learn()
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def learn(self) -> int | None:
        """Its exit status, as a shell reports it, if it has ended and was a child of ours."""
        with self._asking, suppress(ChildProcessError):
            if ended := os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG):
                killed = ended.si_code != os.CLD_EXITED
                self._exit_status = ended.si_status + (128 if killed else 0)
        return self._exit_status

    def wait(self, timeout_s: float | None = None) -> int | None:
        """As ContainerProcess.wait."""
        if not pidfd.await_end(self.fd, timeout_s):
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")
        return self.learn()

    def end(self) -> None:
        """Kill it, and wait for it if it is a child of ours."""
        pidfd.send(self.fd, signal.SIGKILL)
        self.wait()
