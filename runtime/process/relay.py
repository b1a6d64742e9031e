"""A container's terminal in the foreground: what it and our own say, carried both ways.

Ours is raw meanwhile, so that Ctrl-C is a character for the container's terminal, whose line
discipline makes a signal of it. termios(3), pty(7), ioctl_tty(2).
"""

from __future__ import annotations

import fcntl
import os
import select
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from struct import Struct

_CHUNK = 4096  # as much as a terminal takes at once, and a pipe without waiting (pipe(7))
_WINDOW = Struct("HHHH")  # struct winsize: rows, columns, and two numbers that nobody uses
_AGAIN_MS = 50


class Direction:
    """From one descriptor to another: what was read is written before more is read."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._pending = b""
        self._ended = False

    def wanted(self) -> tuple[int, int] | None:
        """Descriptor and events of poll(2) to wait for; None: it has come to its end."""
        if self._pending:
            return self._sink, select.POLLOUT
        return None if self._ended else (self._source, select.POLLIN)

    def go_on(self) -> None:
        """Read or write once, after what was wanted has come."""
        with suppress(BlockingIOError):
            if self._pending:
                self._write()
            else:
                self._read()

    def drain(self) -> None:
        """Carry all that there is to read now."""
        while wanted := self.wanted():
            poll = select.poll()
            poll.register(*wanted)
            if not poll.poll(None if self._pending else 0):
                return
            self.go_on()

    def resume(self) -> None:
        """Try the source again: a terminal that nobody had open may have been opened since."""
        self._ended = False

    def _read(self) -> None:
        try:
            self._pending = os.read(self._source, _CHUNK)
        except BlockingIOError:
            raise
        except OSError:  # EIO: nobody has the terminal open, or ours is not for us to read
            self._ended = True
        else:
            self._ended = not self._pending

    def _write(self) -> None:
        try:
            written = os.write(self._sink, self._pending)
        except BlockingIOError:
            raise
        except OSError:  # nobody reads it; whoever writes is not to wait for that
            written = len(self._pending)
        self._pending = self._pending[written:]


class Relay:
    """Between the master *master_fd* and our own input and output; the last two may be the same."""

    def __init__(self, master_fd: int, in_fd: int, out_fd: int) -> None:
        self._master_fd, self._own = master_fd, (in_fd, out_fd)
        self._inward = Direction(in_fd, master_fd)
        self._outward = Direction(master_fd, out_fd)
        os.set_blocking(master_fd, False)

    def wanted(self) -> tuple[dict[int, int], int | None]:
        """The events to wait for, by descriptor, and for how many ms at most; None: for ever."""
        outward = self._outward.wanted()
        found: dict[int, int] = {}
        for each in filter(None, (self._inward.wanted(), outward)):
            found[each[0]] = found.get(each[0], 0) | each[1]
        return found, (_AGAIN_MS if outward is None else None)

    def serve(self, ready: Mapping[int, int]) -> None:
        """Carry what has come; poll tells of hang-ups and errors too, which the call then meets."""
        unasked = select.POLLHUP | select.POLLERR
        for direction in (self._inward, self._outward):
            wanted = direction.wanted()
            if wanted and ready.get(wanted[0], 0) & (wanted[1] | unasked):
                direction.go_on()
        if self._outward.wanted() is None and not ready:
            self._outward.resume()

    def finish(self) -> None:
        """Carry the rest of what the container has said."""
        self._outward.resume()  # it may have been opened again, for its last words
        self._outward.drain()

    def resize(self) -> None:
        """Give the container's terminal the window size of ours, if that has one."""
        if any(size := window_size(*self._own)):
            window = _WINDOW.pack(*size, 0, 0)
            fcntl.ioctl(self._master_fd, termios.TIOCSWINSZ, window)


def window_size(*fds: int) -> tuple[int, int]:
    """Height and width of the first of *fds* that is a terminal and has a size; 0, 0: none has."""
    for fd in fds:
        with suppress(OSError):
            height, width, _, _ = _WINDOW.unpack(
                fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINDOW.size))
            )
            if height and width:
                return height, width
    return 0, 0


def keep_newlines(master_fd: int) -> None:
    """Have the terminal write a newline as it is: to go down a line and to its beginning is what
    ours makes of it, and what reads a pipe or a file wants lines as they were written.
    """
    attributes = termios.tcgetattr(master_fd)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(master_fd, termios.TCSANOW, attributes)


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Have the terminal *fd* pass on every key as it is; for anything else without effect.

    What it shows is still made lines of: see keep_newlines.
    """
    try:
        former = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    tty.setraw(fd, termios.TCSANOW)
    attributes = termios.tcgetattr(fd)
    attributes[1] |= termios.OPOST
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    try:
        yield
    finally:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(fd, termios.TCSANOW, former)
