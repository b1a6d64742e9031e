"""Build a container's filesystem (mount_namespaces(7)); runtime/rootfs/jail.py makes it the root.

Runs in init, in a mount namespace of its own. Mounts are made detached, with their final
attributes, and attached to descriptors that were resolved inside the rootfs: no path of the rootfs
is ever followed by name, and none is looked up twice. Imports no more than init can afford.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.constants import (
    AT_FDCWD,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    PROC_SUPER_MAGIC,
)
from runtime.rootfs.resolve import (
    is_directory,
    make_directory,
    make_file,
    open_in_root,
    path_in_root,
)
from runtime.syscalls import (
    fsconfig_create,
    fsconfig_set,
    fsmount,
    fsopen,
    fstatfs_type,
    mount_setattr,
    move_mount,
    open_tree,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.process.plan import MountPlan, RootfsPlan

_BIND = "bind"
_REMOUNT = "remount"
# A symbolic link on the way to these would put the kernel's own files where nobody looks for them,
# or leave the real /proc unmasked (CVE-2019-19921).
_NO_SYMLINKS = ("proc", "sysfs")
# What lxcfs and others show in place of the kernel's: harmless, none is written by a runtime.
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
        "uptime",
    )
)


def attach(plan: RootfsPlan, rootfs_fd: int) -> int:
    """Mount the rootfs on itself, and return the descriptor of that mount, the later root.

    rootfs_fd: its directory, opened in this mount namespace; it is closed.
    """
    if plan["own_mounts"]:
        _receive_only(plan["propagation"], plan["path"])
    root_fd = open_tree(rootfs_fd, "", recursive=True)
    if plan["propagation"] != MS_SLAVE:
        mount_setattr(root_fd, propagation=MS_PRIVATE, recursive=True)
    move_mount(root_fd, rootfs_fd)
    os.close(rootfs_fd)
    return root_fd


def _receive_only(propagation: int, rootfs: str) -> None:
    """See that nothing that is mounted from here on shows up on the host.

    For a shared rootfs the mounts stay shared with the host, so that its shared bind mounts are;
    only the mount that the rootfs lies on is cut off, because pivot_root wants it so.
    """
    if propagation != MS_SHARED:
        mount_setattr(AT_FDCWD, "/", propagation=MS_SLAVE, recursive=True)
        return
    path = rootfs
    while True:
        try:
            return mount_setattr(AT_FDCWD, path, propagation=MS_PRIVATE)
        except OSError as exc:
            if exc.errno != errno.EINVAL or path == "/":  # EINVAL: not the root of a mount
                raise
            path = os.path.dirname(path)


def mount_all(root_fd: int, mounts: list[MountPlan], clone: Callable[[int], int]) -> list[int]:
    """Make all *mounts*; return those that are to become read-only when they are filled.

    clone: makes a detached clone of the source of the mount with that number (Sources.clone).
    """
    fill_first = []
    for number, mount in enumerate(mounts):
        try:
            mount_fd = _mount(root_fd, mount, number, clone)
        except OSError as exc:
            exc.filename = _about(mount, exc.filename)
            raise
        if mount["attr_set"] & MOUNT_ATTR_RDONLY and _is_filled_later(mount):
            fill_first.append(mount_fd)
        else:
            os.close(mount_fd)
    return fill_first


def _about(mount: MountPlan, path: str | None) -> str:
    kind = mount["fstype"] if mount["fstype"] != _BIND else f"{mount['source']} (bind)"
    detail = f" ({path})" if path and path not in (mount["destination"], mount["source"]) else ""
    return f"{kind} on {mount['destination']}{detail}"


def _is_filled_later(mount: MountPlan) -> bool:
    """Whether device nodes, links or mount points are still to be made in it."""
    return mount["fstype"] == "tmpfs" or os.path.normpath(mount["destination"]) == "/dev"


def _mount(root_fd: int, mount: MountPlan, number: int, clone: Callable[[int], int]) -> int:
    if mount["fstype"] == _REMOUNT:
        mount_fd = open_in_root(root_fd, mount["destination"])
        _set_attributes(mount_fd, mount)
    elif mount["fstype"] == _BIND:
        mount_fd = _bind(root_fd, mount, clone(number))
    else:
        mount_fd = _filesystem(root_fd, mount)
    for propagation, recursive in mount["propagation"]:
        mount_setattr(mount_fd, propagation=propagation, recursive=recursive)
    return mount_fd


def _attributes(mount: MountPlan) -> int:
    """What is set at once; read-only waits until the mount is filled."""
    return mount["attr_set"] & ~(MOUNT_ATTR_RDONLY if _is_filled_later(mount) else 0)


def _set_attributes(mount_fd: int, mount: MountPlan) -> None:
    below = (mount["recursive_set"], mount["recursive_clr"])
    if any(below):
        mount_setattr(mount_fd, attr_set=below[0], attr_clr=below[1], recursive=True)
    to_set, to_clear = _attributes(mount), mount["attr_clr"]
    try:
        if to_set or to_clear or mount["replaced"]:
            mount_setattr(mount_fd, attr_set=to_set, attr_clr=to_clear | mount["replaced"])
    except PermissionError:
        # In a user namespace the attributes of the host's mounts are locked (mount_namespaces(7)):
        # they stay, unless the spec speaks of them. What the kernel does not lock is cleared.
        to_clear |= mount["replaced"] & MOUNT_ATTR_NOSYMFOLLOW
        try:
            mount_setattr(mount_fd, attr_set=to_set, attr_clr=to_clear)
        except PermissionError as exc:
            exc.strerror = (
                "operation not permitted: in a user namespace it keeps the attributes of its "
                "source: take the options out that would change them"
            )
            raise


def _bind(root_fd: int, mount: MountPlan, tree_fd: int) -> int:
    if not mount["propagation"]:
        mount_setattr(tree_fd, propagation=MS_PRIVATE, recursive=True)
    _set_attributes(tree_fd, mount)
    make = make_directory if is_directory(tree_fd) else make_file
    _attach(root_fd, tree_fd, make(root_fd, mount["destination"]))
    return tree_fd


def _filesystem(root_fd: int, mount: MountPlan) -> int:
    options = dict(mount["options"])
    if mount["fstype"] == "tmpfs" and "mode" not in options:
        options |= _mode_of(root_fd, mount["destination"])
    mount_fd = new_filesystem(mount["fstype"], mount["source"], options, _attributes(mount))
    target_fd = _mount_point(root_fd, mount)
    if mount["copy_up"]:
        from runtime.rootfs.copy_up import copy  # noqa: PLC0415 - lazy: 1 ms, and seldom needed

        copy(target_fd, mount_fd)
    _attach(root_fd, mount_fd, target_fd)
    return mount_fd


def _mount_point(root_fd: int, mount: MountPlan) -> int:
    try:
        symlinks = mount["fstype"] not in _NO_SYMLINKS
        return make_directory(root_fd, mount["destination"], symlinks=symlinks)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR) and not symlinks:
            why = f"{mount['fstype']} must be mounted on ordinary directory, which this is not"
            raise OSError(exc.errno, why, mount["destination"]) from None
        raise


def _mode_of(root_fd: int, path: str) -> dict[str, str | None]:
    """A tmpfs keeps the permissions of the directory that it covers."""
    try:
        fd = open_in_root(root_fd, path)
    except FileNotFoundError:
        return {}
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    return {"mode": f"{mode:o}"}


def new_filesystem(
    fstype: str, source: str, options: dict[str, str | None], attributes: int
) -> int:
    """A detached mount of a new filesystem; OSError has what the kernel says of the options."""
    fs_fd = fsopen(fstype)
    try:
        fsconfig_set(fs_fd, "source", source or fstype)
        for name, value in options.items():
            fsconfig_set(fs_fd, name, value)
        fsconfig_create(fs_fd)
        return fsmount(fs_fd, attributes)
    except OSError as exc:
        exc.strerror = _kernel_message(fs_fd) or exc.strerror
        raise
    finally:
        os.close(fs_fd)


def _kernel_message(fs_fd: int) -> str:
    """What the kernel says of the configuration: lines such as "e tmpfs: Bad value for ..."."""
    try:
        lines = os.read(fs_fd, 1024).decode(errors="replace").splitlines()
    except OSError:  # ENODATA: nothing
        return ""
    return "; ".join(line[2:] for line in lines)


def _attach(root_fd: int, mount_fd: int, target_fd: int) -> None:
    try:
        _check_proc(root_fd, mount_fd, target_fd)
        move_mount(mount_fd, target_fd)
    except NotADirectoryError as exc:
        raise OSError(exc.errno, "either source or destination is a directory, not both") from None
    finally:
        os.close(target_fd)


def _check_proc(root_fd: int, mount_fd: int, target_fd: int) -> None:
    """See that what programs take for the proc filesystem is one, and whole (CVE-2025-52881)."""
    path = path_in_root(root_fd, target_fd)
    if path == "/proc":
        if fstatfs_type(mount_fd) != PROC_SUPER_MAGIC:
            raise OSError(errno.EPERM, f"{path} cannot be covered: it is not of type proc")
    elif fstatfs_type(target_fd) == PROC_SUPER_MAGIC and path not in _PROC_FILES:
        raise OSError(errno.EPERM, f"it would cover {path} of the proc filesystem")
