"""The other end of a process's terminal: with us, or given to who listens at a console socket.

runc(8) "--console-socket": a connection, and on it one message, with the master of the pty as a
descriptor and the terminal's path inside the container as its text.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import SetupFailed
from runtime.held import Closing
from runtime.oserrors import failing

if TYPE_CHECKING:
    from socket import socket

    from runtime.process.parent import Launched
    from runtime.process.relay import Relay
    from runtime.process.stdio import Stdio
    from runtime.spec.model import Process

_STEP = "preparing the terminal"


class Console:
    """Who listens at a console socket, for one terminal: from `connect` on it is held there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: socket | None = None

    def connect(self) -> None:
        """See that somebody listens; SetupFailed when nobody does."""
        from runtime.socket_path import connect  # noqa: PLC0415 - lazy: 5 ms

        with failing(f"connecting to the console socket {self.path}"):
            self._connection = connect(self.path)

    def ensure_listens(self) -> None:
        """Raise SetupFailed when who was there at `connect` is gone (recv(2), MSG_PEEK)."""
        from socket import MSG_DONTWAIT, MSG_PEEK  # noqa: PLC0415 - lazy: 5 ms

        assert self._connection is not None, "connect comes first"
        try:
            there = bool(self._connection.recv(1, MSG_PEEK | MSG_DONTWAIT))
        except BlockingIOError:
            there = True
        except OSError:
            there = False
        if not there:
            raise SetupFailed(f"console socket {self.path}", "nobody listens any more")

    def give(self, path_inside: str, master_fd: int) -> None:
        """Send the master of the terminal that is there in the container, and hang up on them."""
        from runtime.process import passing  # noqa: PLC0415 - lazy: 1 ms, and seldom needed

        assert self._connection is not None, "connect comes first"
        with failing(f"sending the terminal to {self.path}"):
            passing.send(self._connection.fileno(), path_inside.encode(), master_fd)
        self.close()

    def close(self) -> None:
        """Give nothing, if nothing was given; without effect the second time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Terminal(Closing):
    """Where the terminal of a process leads, if it has one (process.terminal); a context manager.

    With a *console_socket* it must have one, which is handed over to who listens there; without,
    `master_fd` is its other end once the process has been made. Whoever closes that hangs up.
    """

    def __init__(self, console_socket: Path | None = None) -> None:
        self._console = Console(console_socket) if console_socket is not None else None
        #: of the pty; None until it is there, and where the process has no terminal
        self.master_fd: int | None = None
        #: it will be relayed: what it says is made lines of at the other end
        self.in_foreground = False

    @property
    def console_socket(self) -> Path | None:
        """Where it is handed over, if it is."""
        return self._console.path if self._console is not None else None

    def take(self, launched: Launched) -> None:
        """Have the other end of the terminal that *launched* makes, or hand it over."""
        self.adopt(*launched.receive_terminal())

    def adopt(self, path: str, master_fd: int) -> None:
        """Have the master of the terminal at *path* inside, ours to close, or hand it over."""
        self.master_fd = master_fd
        if self._console is not None:
            try:
                self._console.give(path, master_fd)
            finally:
                self.close()
        elif self.in_foreground:
            from runtime.process.relay import keep_newlines  # noqa: PLC0415 - lazy: 3 ms

            keep_newlines(master_fd)

    def hand_over(self, console: Console) -> None:
        """Give what is with us to who listens there; SetupFailed: then it is with us still."""
        from runtime.process.pty import path_of  # noqa: PLC0415 - lazy: seldom needed

        if self.master_fd is None:
            raise SetupFailed(_STEP, "it is not with us")
        console.give(path_of(self.master_fd), self.master_fd)
        self.close()

    def relayed(self, stdio: Stdio, stack: ExitStack) -> Relay | None:
        """Carry it to and from *stdio*, raw if that is a terminal, until *stack* ends.

        What it returns does so while it is waited for; None: the process has no terminal.
        """
        if self.master_fd is None:
            return None
        from runtime.process.relay import Relay, raw  # noqa: PLC0415 - lazy: 3 ms

        in_fd, out_fd, _ = stdio.open(stack)
        stack.enter_context(raw(in_fd))
        relay = Relay(self.master_fd, in_fd, out_fd)
        relay.resize()
        return relay

    def resize(self, height: int, width: int) -> None:
        """Give it a size, in characters; SetupFailed when it is not with us (ioctl_tty(2))."""
        step = "resizing the terminal"
        if self.master_fd is None:
            raise SetupFailed(step, "it is not with us")
        from termios import tcsetwinsize  # noqa: PLC0415 - lazy: 1 ms

        with failing(step):
            tcsetwinsize(self.master_fd, (height, width))

    def close(self) -> None:
        """Hang up, if the terminal is still with us; without effect the second time."""
        if self._console is not None:
            self._console.close()
        fd, self.master_fd = self.master_fd, None
        if fd is not None:
            os.close(fd)

    def connect(self) -> None:
        """See that somebody listens at the console socket, if there is one."""
        if self._console is not None:
            self._console.connect()


def taker(process: Process, terminal: Terminal | None) -> Terminal | None:
    """Who takes the terminal of *process*, ready to do so; None when it is to have none.

    Raises SetupFailed where the two do not fit; to be asked before anything is made.
    """
    if not process.terminal:
        if terminal is not None and terminal.console_socket is not None:
            why = "a console socket is given, and process.terminal is not true"
            raise SetupFailed(_STEP, why)
        return None
    if terminal is None:
        why = (
            "process.terminal is true, and nobody would have its other end: give --console-socket, "
            "or set it to false"
        )
        raise SetupFailed(_STEP, why)
    terminal.connect()
    return terminal


def in_foreground(terminal: Terminal | None) -> Terminal:
    """What takes the terminal of a process that we wait for: nobody else may have it."""
    if terminal is not None and terminal.console_socket is not None:
        why = "a console socket is for a detached process: leave it out, or give --detach"
        raise SetupFailed(_STEP, why)
    terminal = terminal or Terminal()
    terminal.in_foreground = True
    return terminal


def sized(process: Process, stdio: Stdio) -> Process:
    """*process* with the window size of the terminal that *stdio* leads to, if there is one."""
    from runtime.process.relay import window_size  # noqa: PLC0415 - lazy: 3 ms
    from runtime.spec.model import ConsoleSize  # noqa: PLC0415 - lazy: who has a Process has it

    with ExitStack() as stack:
        size = ConsoleSize(*window_size(*stdio.open(stack)))
    return process._replace(console_size=size) if any(size) else process
