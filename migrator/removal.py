"""Remove a tree that others have made: one as deep as a container could make it, too."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(top: Path) -> None:
    """Remove *top* and all below it, following no link; what resists stays, and so does *top*.

    Directories are emptied into *top*, where they take their turn: so neither the depth of the
    tree counts, nor the length of its paths, nor the number of descriptors that we may have.
    """
    try:
        fd = os.open(top, _DIRECTORY)
    except OSError:
        return
    try:
        while sum(_removed(name, fd) for name in os.listdir(fd)):
            pass
    finally:
        os.close(fd)
    with suppress(OSError):
        top.rmdir()


def _removed(name: str, top: int) -> bool:
    """Whether *name* in *top* has gone; directories that were in it are in *top* then."""
    with suppress(OSError):
        if not _unlinked(name, top):
            _flatten(name, top)
            os.rmdir(name, dir_fd=top)
        return True
    return False


def _flatten(name: str, top: int) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for each in os.listdir(fd):
            if not _unlinked(each, fd):
                os.rename(each, f".{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)


def _unlinked(name: str, directory: int) -> bool:
    """Whether it was no directory, and has gone."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        return False
    return True
