"""Fill a tmpfs with what is in the directory that it is going to cover (option tmpcopyup).

Every name is taken from a descriptor of its directory, and no symbolic link is followed: what is
copied is the container's own, and may be exchanged while we look.
"""

from __future__ import annotations

import errno
import os
import stat

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = _READ | os.O_DIRECTORY
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 24


def copy(source_fd: int, target_fd: int) -> None:
    """Copy all that is in directory *source_fd* to directory *target_fd*, as it is.

    Both may be O_PATH. The directory itself stays what its mount's options have made it. Raises
    OSError, with the name; *target_fd* then has a part of it.
    """
    opened_fd = os.open(".", _DIRECTORY, dir_fd=source_fd)
    into_fd = os.open(".", _DIRECTORY, dir_fd=target_fd)
    try:
        _copy_entries(opened_fd, into_fd)
    finally:
        os.close(opened_fd)
        os.close(into_fd)


def _copy_entries(source_fd: int, target_fd: int) -> None:
    for name in os.listdir(source_fd):
        try:
            _copy_entry(name, source_fd, target_fd)
        except OSError as exc:
            exc.filename = name
            raise


def _copy_entry(name: str, source_fd: int, target_fd: int) -> None:
    status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        return _copy_below(name, source_fd, target_fd)
    if stat.S_ISREG(mode):
        return _copy_file(name, source_fd, target_fd)
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
    elif stat.S_ISSOCK(mode):
        return None  # nobody listens at a copy
    else:
        os.mknod(name, mode, status.st_rdev, dir_fd=target_fd)
        os.chmod(name, stat.S_IMODE(mode), dir_fd=target_fd)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
    return None


def _copy_below(name: str, source_fd: int, target_fd: int) -> None:
    from_fd = os.open(name, _DIRECTORY, dir_fd=source_fd)
    os.mkdir(name, 0o700, dir_fd=target_fd)
    into_fd = os.open(name, _DIRECTORY, dir_fd=target_fd)
    try:
        _copy_entries(from_fd, into_fd)
        status = os.fstat(from_fd)
        os.fchown(into_fd, status.st_uid, status.st_gid)
        os.fchmod(into_fd, stat.S_IMODE(status.st_mode))
        os.utime(into_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(from_fd)
        os.close(into_fd)


def _copy_file(name: str, source_fd: int, target_fd: int) -> None:
    from_fd = os.open(name, _READ, dir_fd=source_fd)
    into_fd = os.open(name, _WRITE, 0o600, dir_fd=target_fd)
    try:
        status = os.fstat(from_fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it changed while it was looked at")
        while os.sendfile(into_fd, from_fd, None, _CHUNK_BYTES):
            pass
        os.fchown(into_fd, status.st_uid, status.st_gid)
        # after the owner, whose change takes setuid away
        os.fchmod(into_fd, stat.S_IMODE(status.st_mode))
        os.utime(into_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(from_fd)
        os.close(into_fd)
