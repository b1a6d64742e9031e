"""Paths inside a rootfs, resolved by the kernel and never outside it (openat2(2)).

The rootfs is hostile: each of its files may be a symbolic link to anywhere, and may be exchanged
while we look. So a path becomes a descriptor once, by RESOLVE_IN_ROOT, and everything that follows
is done to the descriptor. Part of what a container's init imports.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.constants import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from runtime.syscalls import openat2

_MAX_LINKS = 40  # as many as the kernel follows (path_resolution(7))


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH, *, symlinks: bool = True) -> int:
    """Open *path* with *root_fd* as the root directory; OSError names *path*.

    Without *symlinks* one anywhere in the path is ELOOP.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    if not symlinks:
        resolve |= RESOLVE_NO_SYMLINKS
    return openat2(root_fd, path, flags, resolve=resolve)


def make_directory(root_fd: int, path: str, *, symlinks: bool = True) -> int:
    """Open the directory *path*, and make it and those above it where they are missing."""
    return _walk(root_fd, _parts(path), symlinks=symlinks, links_left=_MAX_LINKS)


def make_file(root_fd: int, path: str) -> int:
    """Open *path*, whatever it is; a missing one is made, an empty file in new directories."""
    return _make_file(root_fd, path, _MAX_LINKS)


def open_parent(root_fd: int, path: str) -> tuple[int, str]:
    """The directory that *path* is to be made in, made where it is missing, and the last name."""
    *above, name = _parts(path) or [""]
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "the path does not end in a name", path)
    return _walk(root_fd, above, symlinks=True, links_left=_MAX_LINKS), name


def path_in_root(root_fd: int, fd: int) -> str:
    """Where *fd* lies now, seen from the root, beginning with "/" (proc_pid_fd(5))."""
    root = os.readlink(f"/proc/self/fd/{root_fd}").rstrip("/")
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path != root and not path.startswith(f"{root}/"):
        raise OSError(errno.EXDEV, "it is not below the root", path)
    return path[len(root) :] or "/"


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _walk(root_fd: int, parts: list[str], *, symlinks: bool, links_left: int) -> int:
    """Descend one name at a time, each time from the root, so that every ".." stays below it."""
    directory = os.O_PATH | os.O_DIRECTORY
    fd = open_in_root(root_fd, ".", directory)
    for count, name in enumerate(parts, 1):
        done = f"/{'/'.join(parts[:count])}"
        above_fd = fd
        try:
            fd = open_in_root(root_fd, done, directory, symlinks=symlinks)
        except FileNotFoundError:
            link = _make_or_read(above_fd, name, done)
            if link is not None:
                above = [] if link.startswith("/") else parts[: count - 1]
                rest = above + _parts(link) + parts[count:]
                return _walk(root_fd, rest, symlinks=symlinks, links_left=_one_less(links_left))
            fd = open_in_root(root_fd, done, directory, symlinks=symlinks)
        finally:
            os.close(above_fd)
    return fd


def _make_or_read(above_fd: int, name: str, path: str) -> str | None:
    """Make the directory *name*; where that is a dangling symbolic link, return what it holds."""
    try:
        os.mkdir(name, 0o755, dir_fd=above_fd)
    except FileExistsError:
        return _read_link(above_fd, name, path)
    except OSError as exc:
        exc.filename = path
        raise
    return None


def _read_link(above_fd: int, name: str, path: str) -> str:
    try:
        return os.readlink(name, dir_fd=above_fd)
    except OSError:
        raise OSError(errno.ENOENT, "it changed while it was looked at", path) from None


def _make_file(root_fd: int, path: str, links_left: int) -> int:
    try:
        return open_in_root(root_fd, path)
    except FileNotFoundError:
        above_fd, name = open_parent(root_fd, path)
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY
    try:
        os.close(os.open(name, flags, 0o644, dir_fd=above_fd))
    except FileExistsError:
        link = _read_link(above_fd, name, path)
        below = link if link.startswith("/") else f"{path.rpartition('/')[0]}/{link}"
        return _make_file(root_fd, below, _one_less(links_left))
    finally:
        os.close(above_fd)
    return open_in_root(root_fd, path)


def _one_less(links_left: int) -> int:
    if not links_left:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return links_left - 1


def is_directory(fd: int) -> bool:
    """Whether *fd* is one."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def is_null(fd: int) -> bool:
    """Whether *fd* is the null device (null(4))."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
