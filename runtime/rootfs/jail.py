"""Close a container's root behind its process: cover what is to be hidden, and go in.

The last steps of mounting.py's work, in init. Nothing of the rootfs is followed by name.
pivot_root(2), mount_namespaces(7), chroot(2).
"""

from __future__ import annotations

import errno
import os

from runtime.constants import (
    AT_FDCWD,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_SLAVE,
)
from runtime.rootfs.mounting import new_filesystem
from runtime.rootfs.resolve import is_directory, is_null, open_in_root
from runtime.syscalls import mount_setattr, move_mount, open_tree, pivot_root, umount2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import RootfsPlan

_TINY: dict[str, str | None] = {"nr_blocks": "1", "nr_inodes": "1"}
# Where one of them is whole to see, root of a user namespace may mount it anew, unmasked.
_REVEALING = ("proc", "sysfs")


def mask(root_fd: int, paths: list[str], *, label: str = "") -> None:
    """Make *paths* empty to look at: directories by one read-only tmpfs, else by /dev/null."""
    null_fd = _host_null()
    empty_fd = None
    options = _TINY | ({"context": label} if label else {})
    for path in paths:
        target_fd = _existing(root_fd, path)
        if target_fd is None:
            continue
        if is_directory(target_fd):
            if empty_fd is None:
                mount_fd = new_filesystem("tmpfs", "tmpfs", options, MOUNT_ATTR_RDONLY)
                empty_fd = os.dup(mount_fd)
            else:  # mounted by now: kernels before 6.15 clone no detached one
                mount_fd = open_tree(empty_fd, "")
        else:
            mount_fd = open_tree(null_fd, "")
        mount_setattr(mount_fd, propagation=MS_PRIVATE)
        _cover(mount_fd, target_fd)
    for fd in (null_fd, empty_fd):
        if fd is not None:
            os.close(fd)


def make_readonly(root_fd: int, paths: list[str]) -> None:
    """Mount *paths* read-only, with what is mounted below them."""
    for path in paths:
        target_fd = _existing(root_fd, path)
        if target_fd is None:
            continue
        mount_fd = open_tree(target_fd, "", recursive=True)
        mount_setattr(mount_fd, attr_set=MOUNT_ATTR_RDONLY, recursive=True)
        _cover(mount_fd, target_fd)


def _host_null() -> int:
    """The host's /dev/null: that of the rootfs may be anything (CVE-2025-31133)."""
    fd = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    if not is_null(fd):
        raise OSError(errno.ENODEV, "it is not the null device", "/dev/null")
    return fd


def _existing(root_fd: int, path: str) -> int | None:
    try:
        return open_in_root(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _cover(mount_fd: int, target_fd: int) -> None:
    move_mount(mount_fd, target_fd)
    os.close(target_fd)
    os.close(mount_fd)


def set_readonly(mount_fds: list[int]) -> None:
    """Make mounts read-only that have been filled, and close their descriptors."""
    for mount_fd in mount_fds:
        mount_setattr(mount_fd, attr_set=MOUNT_ATTR_RDONLY)
        os.close(mount_fd)


def enter(root_fd: int, plan: RootfsPlan) -> None:
    """Make *root_fd* the root and working directory, and let go of the host's mounts."""
    if plan["readonly"]:
        mount_setattr(root_fd, attr_set=MOUNT_ATTR_RDONLY)
    os.fchdir(root_fd)
    if not plan["own_mounts"]:
        os.chroot(".")
    elif plan["pivot"]:
        _pivot()
    else:
        _cover_revealing(plan["path"])
        _move_over_root(root_fd)
    os.chdir("/")
    os.close(root_fd)
    if plan["propagation"] and plan["own_mounts"]:
        recursive = plan["propagation_recursive"]
        mount_setattr(AT_FDCWD, "/", propagation=plan["propagation"], recursive=recursive)


def _pivot() -> None:
    old_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # The old root goes on top of the new one, where no directory has to be made for it.
    pivot_root(".", ".")
    os.fchdir(old_fd)
    mount_setattr(AT_FDCWD, ".", propagation=MS_SLAVE, recursive=True)
    umount2(".", MNT_DETACH)
    os.close(old_fd)


def _move_over_root(root_fd: int) -> None:
    """For a root that cannot be pivoted, such as an initramfs; it stays below, out of reach."""
    below_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    move_mount(root_fd, below_fd)
    os.close(below_fd)
    os.chroot(".")


def _cover_revealing(rootfs: str) -> None:
    """Take the host's proc and sysfs mounts out of this namespace, in which the others remain."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split(b" - ") for line in file]
    for before, after in reversed(lines):
        point = os.fsdecode(before.split()[4].decode("unicode_escape").encode("latin-1"))
        if after.split()[0].decode() in _REVEALING and not f"{point}/".startswith(f"{rootfs}/"):
            _take_away(point)


def _take_away(point: str) -> None:
    try:
        mount_setattr(AT_FDCWD, point, propagation=MS_PRIVATE)
        umount2(point, MNT_DETACH)
    except OSError as exc:
        # EINVAL: locked in a user namespace, or below another mount
        if exc.errno not in (errno.EINVAL, errno.EPERM, errno.ENOENT):
            raise
        target_fd = os.open(point, os.O_PATH | os.O_CLOEXEC)
        _cover(new_filesystem("tmpfs", "tmpfs", dict(_TINY), MOUNT_ATTR_RDONLY), target_fd)
