"""Pipes to a process: its ends, and ours (libcontainer's Process.InitializeIO and IO)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import BinaryIO

from runtime.held import Closing
from runtime.process.stdio import Stdio


class IO(Closing):
    """Our ends of a process's standard streams; a context manager, which closes them.

    `stdio` is what the process is given; once it has started, `hand_over` closes its ends here, so
    that `stdout` and `stderr` end when the process does.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            stdin, self.stdin = _pipe(stack)
            self.stdout, stdout = _pipe(stack)
            self.stderr, stderr = _pipe(stack)
            self.stdio = Stdio(stdin.fileno(), stdout.fileno(), stderr.fileno())
            self._theirs = (stdin, stdout, stderr)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close all that are still open."""
        self._stack.close()

    def hand_over(self) -> None:
        """Close the ends of the process; without effect the second time."""
        for end in self._theirs:
            end.close()


def _pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """A pipe's end to read from, and that to write to, closed with *stack*."""
    reading_fd, writing_fd = os.pipe2(os.O_CLOEXEC)
    reading = stack.enter_context(os.fdopen(reading_fd, "rb"))
    writing = stack.enter_context(os.fdopen(writing_fd, "wb", buffering=0))
    return reading, writing
