"""One process of a container that the caller holds: to signal it, resize it, wait for it.

libcontainer's Process after Start, libcontainerd's processes. pidfd_open(2), waitid(2).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from runtime import pidfd
from runtime.errors import SetupFailed
from runtime.held import Closing, Held

if TYPE_CHECKING:
    from runtime.process.pipes import IO
    from runtime.process.terminal import Terminal


class ContainerProcess(Closing):
    """A process that this program holds; a context manager.

    What we have started ourselves has to be waited for: until then, the container's first process
    does not end either (pid_namespaces(7)). Then only its terminal and our ends of its pipes are
    left to be closed, if it has any. Closing before leaves it running.
    """

    def __init__(
        self, held: Held, *, io: IO | None = None, terminal: Terminal | None = None
    ) -> None:
        """Takes *io* and *terminal*, its other ends, over."""
        self.pid, self.io, self.terminal = held.pid, io, terminal
        #: as a shell reports it; None until `wait` has told it, and for who is no child of ours
        self.exit_status: int | None = None
        self._held: Held | None = held
        self._ends = ExitStack()
        if terminal is not None:
            self._ends.push(terminal)
        if io is not None:
            self._ends.push(io)

    def shared(self) -> ContainerProcess:
        """Another hold of it, with the same other ends; until this one is closed."""
        assert self._held is not None, "a closed one cannot be shared"
        return ContainerProcess(self._held, io=self.io, terminal=self.terminal)

    def close(self) -> None:
        """Hold it no longer; without effect the second time."""
        self._held = None
        self._ends.close()

    def fileno(self) -> int:
        """Its pidfd, readable when it has ended, for a loop of the caller's own; -1 once known."""
        return self._held.fd if self._held else -1

    def signal(self, number: int) -> bool:
        """Send it a signal; False when it has ended."""
        held = self._held
        return held is not None and pidfd.send(held.fd, number)

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
        if held := self._held:
            self.exit_status = held.wait(timeout_s)
            self._held = None
        return self.exit_status
