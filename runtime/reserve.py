"""The id of a container and its caller's descriptors: what is settled before anything is made."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import ContainerExists, SetupFailed
from runtime.oserrors import failing
from runtime.process.waiting import signals_held
from runtime.state import lock
from runtime.undo import Undo


def reserve(root: Path, container_id: str, undo: Undo) -> Path:
    """Take the id: make its state directory, and hold its lock until *undo* ends.

    Nobody else may enter it: who can open its fifos could keep `start` waiting, or answer for init.
    Raises ContainerExists when it is taken.
    """
    directory = root / container_id
    with failing("making the state directory"), signals_held():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            raise ContainerExists(container_id) from None
        undo.on_error(release, directory)  # before an interrupt comes
    undo.enter_context(lock(directory))
    return directory


def release(directory: Path) -> None:
    """Give the id back: remove the state directory and what is in it."""
    for path, directories, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(os.path.join(path, name))
        for name in directories:
            os.rmdir(os.path.join(path, name))
    directory.rmdir()


def preserved(count: int, extra_fds: Sequence[int] = ()) -> tuple[int, ...]:
    """The *count* descriptors after the standard three, and *extra_fds*.

    To be asked before anything is opened: nothing of ours must come to be among them. Raises
    SetupFailed when one is not open.
    """
    fds = (*range(3, 3 + count), *extra_fds)
    for fd in fds:
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            why = f"descriptor {fd} is not open"
            raise SetupFailed(f"preserving {len(fds)} descriptors", why) from None
    return fds
