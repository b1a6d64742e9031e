"""The socket at which a container says that it is ready, made from inside (sd_notify(3))."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket
from contextlib import suppress

from runtime.rootfs.resolve import make_directory

DIRECTORY = "/run/notify"
NAME = "notify.sock"
#: what the process finds in NOTIFY_SOCKET, as with runc
PATH = f"{DIRECTORY}/{NAME}"


def make(root_fd: int) -> int:
    """Bind it below *root_fd*, for everybody to write to; return its descriptor.

    Closed by exec: until then `start` takes it over. The umask is to be 0. By its name in the
    directory that is current for the moment: bind(2) has no other way without a path to follow.
    """
    directory_fd = make_directory(root_fd, DIRECTORY)
    with suppress(FileNotFoundError):
        os.unlink(NAME, dir_fd=directory_fd)
    end = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    os.fchdir(directory_fd)
    end.bind(NAME)
    os.fchdir(root_fd)
    os.close(directory_fd)
    return end.detach()
