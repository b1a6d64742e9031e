"""The mounts of a host that systemd runs on: each in a peer group (mount_namespaces(7))."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.constants import AT_FDCWD, CLONE_NEWNS, MS_PRIVATE, MS_SHARED
from runtime.syscalls import mount_setattr, setns, unshare


@contextmanager
def shared_mounts() -> Iterator[None]:
    """Have the calling thread see them: as those that are here, but none of these is touched."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    here_fd, directory_fd = os.open("/proc/thread-self/ns/mnt", flags), os.open(".", flags)
    unshare(CLONE_NEWNS)
    try:
        make_private()
        mount_setattr(AT_FDCWD, "/", propagation=MS_SHARED, recursive=True)
        yield
    finally:
        setns(here_fd, CLONE_NEWNS)
        os.fchdir(directory_fd)
        os.close(here_fd)
        os.close(directory_fd)


def make_private() -> None:
    """As on a host without systemd; what is mounted there already stays."""
    mount_setattr(AT_FDCWD, "/", propagation=MS_PRIVATE, recursive=True)
