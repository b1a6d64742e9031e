"""Sockets in directories whose path may be longer than the 108 bytes of sun_path. unix(7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Another name of *path*, for bind(2) or connect(2), that is short enough. Raises OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path) -> socket:
    """A connection to who listens at *path*. Raises OSError."""
    from socket import AF_UNIX, socket  # noqa: PLC0415 - lazy: a server that binds does without

    connection = socket(AF_UNIX)
    try:
        with short_path(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection
