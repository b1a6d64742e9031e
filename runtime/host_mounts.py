"""What a container without a mount namespace mounts: it lies on the host, over its rootfs.

As with runc it stays there when the container is deleted (`umount --recursive --lazy ROOTFS` takes
it away); only a create that fails takes back what it has mounted.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.constants import MNT_DETACH
from runtime.syscalls import umount2

_NUMBER = "mnt_id:"


def number_at(path: Path) -> int:
    """The number of the mount that *path* leads to. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _number_of(fd)
    finally:
        os.close(fd)


def uncover(path: Path, former: int) -> None:
    """Unmount what lies over *path*, with all below it, if *path* does not lead to *former*.

    By a descriptor: what was looked at is what is unmounted. Raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if _number_of(fd) != former:
            umount2(f"/proc/self/fd/{fd}", MNT_DETACH)
    finally:
        os.close(fd)


def _number_of(fd: int) -> int:
    """proc_pid_fdinfo(5)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(_NUMBER))
