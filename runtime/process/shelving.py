"""Make the shelf that a restore has planned: criu's launcher does it, as the host's root.

runtime/checkpoint/shelf.py has the plan.
"""

from __future__ import annotations

import errno
import os

from runtime.constants import AT_FDCWD, MOUNT_ATTR_IDMAP
from runtime.process.entering import namespace_with
from runtime.rootfs import mounting
from runtime.rootfs.resolve import is_directory, open_in_root
from runtime.syscalls import mount_setattr, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import ShelfPlan, ShownPlan


class Opened:
    """What is to be shown, opened before anything is mounted over it."""

    def __init__(self, plan: ShelfPlan) -> None:
        """Raises OSError, which names the source."""
        idmaps = [namespace_with(maps) for maps in plan["idmaps"]]
        self._plan = plan
        self._shown = [(shown["name"], _clone(shown, idmaps)) for shown in plan["shown"]]
        for fd in idmaps:
            os.close(fd)

    def mount(self) -> None:
        """Make the shelf, and put everything on it."""
        directory = self._plan["directory"]
        if not (self._shown or self._plan["tmpfs"]):
            return
        mount_tmpfs(directory, {"mode": self._plan["mode"]})
        for mount in self._plan["tmpfs"]:
            path = f"{directory}/{mount['name']}"
            os.mkdir(path, 0o700)
            options = {name: value or None for name, value in mount["options"]}
            mount_tmpfs(path, options, mount["source"])
        for name, tree_fd in self._shown:
            _attach(tree_fd, f"{directory}/{name}")


def mount_tmpfs(path: str, options: dict[str, str | None], source: str = "tmpfs") -> None:
    """Mount a new one on the directory *path*."""
    mount_fd = mounting.new_filesystem("tmpfs", source, options, 0)
    target_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    move_mount(mount_fd, target_fd)
    os.close(target_fd)
    os.close(mount_fd)


def _clone(shown: ShownPlan, idmaps: list[int]) -> int:
    """A detached mount of it alone: CRIU clones what is locked below it in no user namespace."""
    source = shown["source"]
    if shown["fstype"]:
        return mounting.new_filesystem(shown["fstype"], source, {}, 0)
    tree_fd = _below(source, shown["below"]) if shown["below"] else open_tree(AT_FDCWD, source)
    if shown["idmap"] is None:
        return tree_fd
    try:
        mount_setattr(tree_fd, attr_set=MOUNT_ATTR_IDMAP, userns_fd=idmaps[shown["idmap"]])
    except OSError as exc:
        exc.filename = source
        if exc.errno == errno.EINVAL:
            exc.strerror = "its filesystem has no idmapped mounts on this kernel"
        raise
    return tree_fd


def _below(source: str, path: str) -> int:
    """What lies there in *source*, where the container and others may put links to anywhere."""
    source_fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found_fd = open_in_root(source_fd, path, symlinks=False)
    except OSError as exc:
        exc.filename = source + path
        raise
    finally:
        os.close(source_fd)
    tree_fd = open_tree(found_fd, "")
    os.close(found_fd)
    return tree_fd


def _attach(tree_fd: int, path: str) -> None:
    if is_directory(tree_fd):
        os.mkdir(path, 0o700)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    target_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    move_mount(tree_fd, target_fd)
    os.close(target_fd)
    os.close(tree_fd)
