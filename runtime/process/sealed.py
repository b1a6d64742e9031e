"""The interpreter for a process that goes into a container, as nobody there can write to it.

Whoever gets hold of /proc/PID/exe could otherwise write to the host's own program once it has ended
(CVE-2019-5736). Filesystem mounts: Documentation/filesystems/overlayfs.rst; memfd_create(2).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from criu_rpc.logger import Logger
from runtime.constants import AT_FDCWD, MOUNT_ATTR_RDONLY
from runtime.syscalls import (
    fsconfig_create,
    fsconfig_set,
    fsmount,
    fsopen,
    mount_setattr,
    open_tree,
)

logger = Logger(__name__)


def sealed(path: str) -> int:
    """A descriptor to execute the program *path* by, through which it cannot be written.

    That of an overlay without an upper layer, where nothing could be written to; else that of a
    read-only mount. An ordinary user makes neither, and root in his container is he himself, who
    could write to the file where it is his or his group's: what is started is a copy in memory.
    """
    logger.debug("runc exeseal: using /proc/self/exe clone: %s cannot be written through it", path)
    with suppress(OSError):  # no overlayfs, or none on top of what the program lies on
        return _in_overlay(path)
    try:
        fd = open_tree(AT_FDCWD, path)
    except PermissionError:
        return _copied(path)
    mount_setattr(fd, attr_set=MOUNT_ATTR_RDONLY)
    return fd


def _in_overlay(path: str) -> int:
    directory, name = os.path.split(path)
    # Without an upper layer there have to be two: the second is never looked into.
    layers = (directory, os.path.dirname(__file__))
    fs_fd = fsopen("overlay")
    try:
        fsconfig_set(fs_fd, "lowerdir", ":".join(layer.replace(":", "\\:") for layer in layers))
        fsconfig_create(fs_fd)
        mount_fd = fsmount(fs_fd, MOUNT_ATTR_RDONLY)
    finally:
        os.close(fs_fd)
    try:
        fd = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=mount_fd)
    finally:
        os.close(mount_fd)
    logger.debug("runc exeseal: using overlayfs for sealed /proc/self/exe")
    return fd


def _copied(path: str) -> int:
    fd = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as source:
        while os.sendfile(fd, source.fileno(), None, 1 << 24):
            pass
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
