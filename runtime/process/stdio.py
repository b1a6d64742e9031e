"""Where the standard descriptors of a container's process lead: null, ours, pipes, files."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

#: a descriptor of this process, a file to open, or None for /dev/null
Stream = int | Path | None

_ACCESS = (
    os.O_RDONLY,
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
)
_FILE_MODE = 0o600


class Stdio(NamedTuple):
    """Standard input, output and error of a process, in this process' terms."""

    stdin: Stream = None
    stdout: Stream = None
    stderr: Stream = None

    @classmethod
    def inherited(cls) -> Stdio:
        """Our own three."""
        return cls(0, 1, 2)

    def without_descriptors(self) -> Stdio:
        """The files alone; /dev/null for what was ours."""
        return Stdio(*(None if isinstance(each, int) else each for each in self))

    def open(self, stack: ExitStack) -> list[int]:
        """The three as descriptors above 2, closed with *stack*; OSError names a file."""
        return [self._open(stack, fd, stream) for fd, stream in enumerate(self._streams)]

    @property
    def _streams(self) -> tuple[Stream, Stream, Stream]:
        return self.stdin, self.stdout, self.stderr

    @staticmethod
    def _open(stack: ExitStack, number: int, stream: Stream) -> int:
        if isinstance(stream, int):
            # Above 2, so that none is overwritten before it is put in its place.
            fd = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3)
        else:
            path = os.devnull if stream is None else stream
            fd = os.open(path, _ACCESS[number] | os.O_CLOEXEC, _FILE_MODE)
        stack.callback(os.close, fd)
        return fd
