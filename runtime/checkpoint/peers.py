"""Make mounts of a restored container peers of the host's again: each shows what is mounted there.

CRIU gives them a peer group of their own (criu/mount-v2.c: restore_one_sharing).
mount_namespaces(7), move_mount(2) MOVE_MOUNT_SET_GROUP.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from criu_rpc.logger import Logger
from runtime.constants import MOVE_MOUNT_SET_GROUP, MS_PRIVATE
from runtime.rootfs import mount_namespace, mountinfo
from runtime.rootfs.host_mounts import number_of
from runtime.rootfs.resolve import open_in_root
from runtime.syscalls import mount_setattr, move_mount

if TYPE_CHECKING:
    from runtime.checkpoint.externals import Source

logger = Logger(__name__)


def join(pid: int, sources: Iterable[Source]) -> None:
    """Have what process *pid* sees of *sources* join the peer groups that those are in.

    None of the container's processes may run yet. What is in no group here stays as it is.
    Raises OSError.
    """
    sources = list(sources)
    if not sources:
        return
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        root_fd = os.open(f"/proc/{pid}/root", flags)
        stack.callback(os.close, root_fd)
        for source in sources:
            mount_fd = _mount_of(source, stack)
            if mount_fd is None:
                logger.info("%s is on no shared mount of this host", source.path + source.below)
                continue
            target_fd = open_in_root(root_fd, source.name)
            stack.callback(os.close, target_fd)
            # the kernel puts only into a group what is in none
            mount_namespace.within(pid, mount_setattr, target_fd, propagation=MS_PRIVATE)
            move_mount(mount_fd, target_fd, flags=MOVE_MOUNT_SET_GROUP)


def _mount_of(source: Source, stack: ExitStack) -> int | None:
    """The root of the mount that *source* lies on, where that is shared and in sight."""
    fd = os.open(source.path, os.O_PATH | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    if source.below:
        fd = open_in_root(fd, source.below, symlinks=False)
        stack.callback(os.close, fd)
    number = number_of(fd)
    for mount in mountinfo.of_thread():
        if mount.id == number and any(each.startswith("shared:") for each in mount.propagation):
            mount_fd = os.open(mount.point, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, mount_fd)
            return mount_fd if number_of(mount_fd) == number else None
    return None
