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
        with ExitStack() as stack:
            ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
            theirs = (ends[0][0], ends[1][1], ends[2][1])
            self.stdio = Stdio(*theirs)
            self.stdin: BinaryIO = stack.enter_context(os.fdopen(ends[0][1], "wb", buffering=0))
            self.stdout: BinaryIO = stack.enter_context(os.fdopen(ends[1][0], "rb"))
            self.stderr: BinaryIO = stack.enter_context(os.fdopen(ends[2][0], "rb"))
            self._theirs = ExitStack()
            for fd in theirs:
                self._theirs.callback(os.close, fd)
            self._ours = stack.pop_all()

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
