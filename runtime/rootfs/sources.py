"""The sources of a container's mounts: what of the host it sees, opened by whom it may be.

Part of what a container's init imports. open_tree(2), mount_setattr(2) MOUNT_ATTR_IDMAP.
"""

from __future__ import annotations

import errno
import os

from runtime.constants import AT_FDCWD, MOUNT_ATTR_IDMAP
from runtime.syscalls import mount_setattr, open_tree

#: in place of the number of id maps: the container's own user namespace
OWN_USER_NAMESPACE = -1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.process.plan import MountPlan, RootfsPlan


class Sources:
    """What the plan of a rootfs names on the host, opened by this process.

    idmaps: number of RootfsPlan.idmaps -> descriptor of a user namespace that has it.
    """

    def __init__(self, plan: RootfsPlan, idmaps: Mapping[int, int]) -> None:
        self._plan = plan
        self._idmaps = idmaps

    def rootfs(self) -> int:
        """The directory of the rootfs (O_PATH)."""
        return os.open(self._plan["path"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def clone(self, number: int) -> int:
        """A detached clone of the source of mount *number*; OSError has its path."""
        mount = self._plan["mounts"][number]
        tree_fd = open_tree(AT_FDCWD, mount["source"], recursive=mount["recursive"])
        if mount["idmap"] is not None:
            _map_ids(tree_fd, mount, self._idmaps[mount["idmap"]])
        return tree_fd

    def close(self) -> None:
        """No more is asked for."""


def _map_ids(tree_fd: int, mount: MountPlan, namespace_fd: int) -> None:
    try:
        mount_setattr(
            tree_fd,
            attr_set=MOUNT_ATTR_IDMAP,
            userns_fd=namespace_fd,
            recursive=mount["idmap_recursive"],
        )
    except OSError as exc:
        why = f"ids cannot be mapped: {exc.strerror}"
        if exc.errno == errno.EINVAL:
            why = "its filesystem has no idmapped mounts on this kernel, or it is idmapped already"
        raise OSError(exc.errno, why, mount["source"]) from None
