"""One process of a container that the caller holds: to signal it, resize it, wait for it.

libcontainer's Process after Start, libcontainerd's processes. pidfd_open(2), waitid(2).
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from runtime import pidfd
from runtime.errors import SetupFailed

if TYPE_CHECKING:
    from runtime.process.pipes import IO
    from runtime.process.terminal import Terminal


class ContainerProcess:
    """A process by its pidfd, so never another one of the same pid; a context manager.

    What we have started ourselves has to be waited for: until then, the container's first process
    does not end either (pid_namespaces(7)). Closing leaves it running, but hangs up its terminal
    and closes our ends of its pipes.
    """

    def __init__(
        self, pid: int, pidfd_: int, *, io: IO | None = None, terminal: Terminal | None = None
    ) -> None:
        """Takes the descriptor over, and *io* and *terminal*, its other ends."""
        self.pid, self.io, self.terminal = pid, io, terminal
        #: as a shell reports it; None until it has been waited for, and for who is no child of ours
        self.exit_status: int | None = None
        self._pidfd = pidfd_
        self._stack = ExitStack()
        self._stack.callback(os.close, pidfd_)
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
        """Its pidfd, which is readable when it has ended: for a loop of the caller's own."""
        return self._pidfd

    def signal(self, number: int) -> bool:
        """Send it a signal; False when it has ended."""
        return pidfd.send(self._pidfd, number)

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
        if not pidfd.await_end(self._pidfd, timeout_s):
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # it was waited for before, or is no child of ours
            return self.exit_status
        assert ended is not None, "only WNOHANG has it return without an answer"
        killed = ended.si_code != os.CLD_EXITED
        self.exit_status = ended.si_status + (128 if killed else 0)
        return self.exit_status
