"""Whose the directory of a container's message queues is (mq_overview(7)).

The kernel makes it with the ipc namespace, for who makes that. CRIU makes user and ipc namespace in
one call (criu/cr-restore.c: fork_with_pid), when nobody is mapped yet: the directory would belong
to nobody in there, where it was the container's root's.
"""

from __future__ import annotations

import os
from contextlib import suppress

from runtime.rootfs.resolve import open_in_root
from runtime.spec.model import IdMapping, Spec
from runtime.syscalls import fstatfs_type

_MAGIC = 0x19800202  # ipc/mqueue.c
_TYPE = "mqueue"
_BINDS = {"bind", "rbind"}


def give_to_root(spec: Spec, pid: int) -> None:
    """Give it to root of the user namespace of process *pid*, wherever it is mounted.

    Raises OSError.
    """
    owner = (_outside(spec.linux.uid_mappings), _outside(spec.linux.gid_mappings))
    points = own(spec)
    if not points:
        return
    root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for point in points:
            with suppress(FileNotFoundError, NotADirectoryError):
                _give(open_in_root(root_fd, point), *owner)
    finally:
        os.close(root_fd)


def own(spec: Spec) -> list[str]:
    """Where its own is mounted: what is bound there instead is the host's, and stays that."""
    return [
        mount.destination
        for mount in spec.mounts
        if mount.type == _TYPE and not _BINDS & set(mount.options)
    ]


def _give(fd: int, uid: int, gid: int) -> None:
    try:
        if fstatfs_type(fd) == _MAGIC:
            os.chown(f"/proc/self/fd/{fd}", uid, gid)
    finally:
        os.close(fd)


def _outside(mappings: tuple[IdMapping, ...]) -> int:
    return next(each.host_id for each in mappings if each.container_id == 0)
