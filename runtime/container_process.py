"""One process of a container that the caller holds: to signal it, resize it, wait for it.

libcontainer's Process after Start, libcontainerd's processes. pidfd_open(2), waitid(2).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

from runtime import pidfd
from runtime.errors import SetupFailed

if TYPE_CHECKING:
    from runtime.process.pipes import IO
    from runtime.process.terminal import Terminal


class ContainerProcess:
    """A process by its pidfd, so never another one of the same pid; a context manager.

    What we have started ourselves has to be waited for: until then, the container's first process
    does not end either (pid_namespaces(7)). Then only its terminal and our ends of its pipes are
    left to be closed, if it has any. Closing before leaves it running.
    """

    def __init__(
        self, pid: int, pidfd_: int, *, io: IO | None = None, terminal: Terminal | None = None
    ) -> None:
        """Takes the descriptor over, and *io* and *terminal*, its other ends."""
        self.pid, self.io, self.terminal = pid, io, terminal
        #: as a shell reports it; None until it has been waited for, and for who is no child of ours
        self.exit_status: int | None = None
        #: -1 once it has ended, and that is known
        self._pidfd = pidfd_
        self._stack = ExitStack()
        self._stack.callback(self._release)
        if terminal is not None:
            self._stack.push(terminal)
        if io is not None:
            self._stack.push(io)

    @classmethod
    def of_child(cls, pid: int, *, io: IO | None = None, terminal: Terminal | None = None) -> Self:
        """The child *pid* of ours, which nobody has waited for yet."""
        return cls(pid, os.pidfd_open(pid), io=io, terminal=terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hold it no longer; without effect the second time."""
        self._stack.close()

    def fileno(self) -> int:
        """Its pidfd, readable when it has ended, for a loop of the caller's own; -1 after that."""
        return self._pidfd

    def signal(self, number: int) -> bool:
        """Send it a signal; False when it has ended."""
        return self._pidfd >= 0 and pidfd.send(self._pidfd, number)

    def resize(self, height: int, width: int) -> None:
        """Give its terminal a size, in characters; SetupFailed when that is not with us."""
        if self.terminal is None:
            raise SetupFailed("resizing the terminal", "the process has none, or not with us")
        self.terminal.resize(height, width)

    def close_stdin(self) -> None:
        """End its standard input, if that is a pipe of ours."""
        if self.io is not None:
            self.io.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until it has ended; its exit status, None when it was started by somebody else.

        Raises TimeoutError after *timeout_s*.
        """
        if self._pidfd < 0:
            return self.exit_status
        if not pidfd.await_end(self._pidfd, timeout_s):
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")
        with suppress(ChildProcessError):  # somebody else's, or somebody else has waited for it
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            assert ended is not None, "only WNOHANG has it return without an answer"
            killed = ended.si_code != os.CLD_EXITED
            self.exit_status = ended.si_status + (128 if killed else 0)
        self._release()
        return self.exit_status

    def _release(self) -> None:
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            os.close(fd)
