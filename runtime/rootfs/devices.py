"""Device nodes and the links below /dev (OCI config-linux.md "Default Devices", mknod(2)).

The plan is made by the runtime, the rest is part of what init imports.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.constants import AT_FDCWD, MS_PRIVATE
from runtime.rootfs.resolve import make_file, open_parent
from runtime.syscalls import mount_setattr, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.process.plan import DevicePlan
    from runtime.spec.model import Device, Mount

_FILE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

# null(4), full(4), random(4), tty(4): numbers of the kernel's devices.txt
_DEFAULTS = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}
# A privileged container is given all devices of the host, this one too, which would be the host's
# where it is bound instead of made: "a bind-mount or symlink of the container's /dev/pts/ptmx".
_MULTIPLEXER = "/dev/ptmx"
_SYMLINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", _MULTIPLEXER),
)


def plan(
    devices: Iterable[Device], mounts: Iterable[Mount]
) -> tuple[list[DevicePlan], list[tuple[str, str]]]:
    """The nodes to make and the links below /dev; none where /dev is bound from the host."""
    if is_of_host(mounts):
        return [], []
    nodes: dict[str, DevicePlan] = {
        path: {
            "path": path,
            "mode": stat.S_IFCHR | 0o666,
            "major": major,
            "minor": minor,
            "uid": 0,
            "gid": 0,
        }
        for path, (major, minor) in _DEFAULTS.items()
    }
    for device in devices:
        if device.path != _MULTIPLEXER:
            nodes[device.path] = _planned(device)
    return list(nodes.values()), list(_SYMLINKS)


def is_of_host(mounts: Iterable[Mount]) -> bool:
    """Whether /dev is bound from the host."""
    return any(_is_bound_dev(mount) for mount in mounts)


def _is_bound_dev(mount: Mount) -> bool:
    is_bind = mount.type == "bind" or not {"bind", "rbind"}.isdisjoint(mount.options)
    return is_bind and os.path.normpath(f"/{mount.destination.lstrip('/')}") == "/dev"


def _planned(device: Device) -> DevicePlan:
    return {
        "path": device.path,
        "mode": _FILE_TYPES[device.type] | stat.S_IMODE(device.file_mode),
        "major": max(device.major, 0),
        "minor": max(device.minor, 0),
        "uid": device.uid,
        "gid": device.gid,
    }


def is_node(device: DevicePlan, status: os.stat_result) -> bool:
    """Whether a file with that *status* is the node of *device*, whoever may use it."""
    wanted = (stat.S_IFMT(device["mode"]), os.makedev(device["major"], device["minor"]))
    return (stat.S_IFMT(status.st_mode), status.st_rdev) == wanted


def make_nodes(root_fd: int, devices: list[DevicePlan]) -> None:
    """Make every device node in the rootfs; the umask must be 0."""
    for device in devices:
        directory_fd, name = open_parent(root_fd, device["path"])
        number = os.makedev(device["major"], device["minor"])
        try:
            os.mknod(name, device["mode"], number, dir_fd=directory_fd)
            owner = (device["uid"], device["gid"])
            os.chown(name, *owner, dir_fd=directory_fd, follow_symlinks=False)
        except FileExistsError:
            pass  # the rootfs or a mount brings its own
        except PermissionError:
            _bind_host_node(root_fd, device)
        except OSError as exc:
            exc.filename = device["path"]
            raise
        finally:
            os.close(directory_fd)


def _bind_host_node(root_fd: int, device: DevicePlan) -> None:
    """Where a device cgroup around us or a user namespace forbids mknod.

    Private, as a bind mount is that asks for nothing else: what the host mounts over its own node
    is none of the container's, and CRIU need not make it a slave of the host's /dev again.
    """
    path = device["path"]
    node_fd = open_tree(AT_FDCWD, path)
    if not is_node(device, os.fstat(node_fd)):
        raise OSError(errno.ENODEV, "the host has another file there, and it cannot be made", path)
    mount_setattr(node_fd, propagation=MS_PRIVATE)
    target_fd = make_file(root_fd, path)
    move_mount(node_fd, target_fd)
    os.close(target_fd)
    os.close(node_fd)


def make_symlinks(root_fd: int, links: list[tuple[str, str]]) -> None:
    """Make every link (what it points to, where it is) that is not there yet."""
    for points_to, path in links:
        directory_fd, name = open_parent(root_fd, path)
        try:
            os.symlink(points_to, name, dir_fd=directory_fd)
        except FileExistsError:
            pass
        except OSError as exc:
            exc.filename = path
            raise
        finally:
            os.close(directory_fd)
