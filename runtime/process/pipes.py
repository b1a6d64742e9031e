"""Pipes to a process: its ends, and ours (libcontainer's Process.InitializeIO and IO)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self

from runtime.process.stdio import Stdio


class IO:
    """Our ends of a process's standard streams; a context manager, which closes them.

    `stdio` is what the process is given; once it has started, `hand_over` closes its ends here, so
    that `stdout` and `stderr` end when the process does.
    """

    def __init__(self) -> None:
        with ExitStack() as ours, ExitStack() as theirs:
            stdin_fd, fd = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, stdin_fd)
            self.stdin: BinaryIO = ours.enter_context(os.fdopen(fd, "wb", buffering=0))
            fd, stdout_fd = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, stdout_fd)
            self.stdout: BinaryIO = ours.enter_context(os.fdopen(fd, "rb"))
            fd, stderr_fd = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, stderr_fd)
            self.stderr: BinaryIO = ours.enter_context(os.fdopen(fd, "rb"))
            self.stdio = Stdio(stdin_fd, stdout_fd, stderr_fd)
            self._ours, self._theirs = ours.pop_all(), theirs.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.hand_over()
        self._ours.close()

    def hand_over(self) -> None:
        """Close the ends of the process; without effect the second time."""
        self._theirs.close()
