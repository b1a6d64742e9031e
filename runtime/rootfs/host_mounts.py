"""What a container without a mount namespace of its own mounts: it lies over its rootfs, on the
host or in the namespace that it has joined.

As with runc it stays there when the container is deleted (`umount --recursive --lazy ROOTFS` takes
it away); only what a create has mounted that failed, or was killed, is taken back.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from runtime.constants import MNT_DETACH
from runtime.rootfs import mount_namespace, mountinfo
from runtime.syscalls import umount2
from runtime.undo import Undo

_NUMBER = "mnt_id:"


def uncover_on_error(rootfs: Path, namespace: str | None, undo: Undo) -> int:
    """Have *undo* unmount what will be mounted over *rootfs*, as it is seen in *namespace*.

    Returns the number that is there now, for `uncover_in`; 0 where that cannot be known. Raises
    OSError where the rootfs is not there. A namespace may be without a proc filesystem: then that
    stays its holder's to do, and so it does once its root has been exchanged.
    """
    if namespace is None:
        former = number_at(rootfs)
        undo.on_error(uncover, rootfs, former)
        return former
    with suppress(FileNotFoundError):
        former = mount_namespace.within(namespace, number_at, rootfs)
        undo.on_error(uncover_in, namespace, rootfs, former)
        return former
    return 0


def uncover_in(namespace: str | None, rootfs: Path, former: int) -> None:
    """`uncover` in the namespace at that path, or here; what is not there any more is no fault."""
    with suppress(FileNotFoundError):
        if namespace is None:
            uncover(rootfs, former)
        else:
            mount_namespace.within(namespace, uncover, rootfs, former)


def number_at(path: Path) -> int:
    """The number of the mount that *path* leads to. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return number_of(fd)
    finally:
        os.close(fd)


def uncover(path: Path, former: int) -> None:
    """Unmount what lies over *path*, with all below it, if that was mounted on top of *former*.

    By a descriptor: what was looked at is what is unmounted. Raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if _parent(number_of(fd)) == former:
            umount2(f"/proc/self/fd/{fd}", MNT_DETACH)
    finally:
        os.close(fd)


def _parent(number: int) -> int | None:
    """The mount that mount *number* lies on."""
    return next((each.parent for each in mountinfo.of_thread() if each.id == number), None)


def number_of(fd: int) -> int:
    """The number of the mount that *fd* was opened on (proc_pid_fdinfo(5))."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(_NUMBER))
