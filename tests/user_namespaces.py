"""Bundles whose container has a user namespace, and looking at whose a namespace is."""

import fcntl
import os
from pathlib import Path
from typing import Any

from tests.bundles import Bundle

UIDS, GIDS, SIZE = 1_000_000, 2_000_000, 65536
NS_GET_USERNS = 0xB701  # <linux/nsfs.h>


def ids(host_id: int, container_id: int = 0, size: int = SIZE) -> dict[str, int]:
    return {"containerID": container_id, "hostID": host_id, "size": size}


def give_away(path: Path, uid: int = UIDS, gid: int = GIDS) -> None:
    """Make the user namespace's root the owner of a tree."""
    for each in (path, *path.rglob("*")):
        os.chown(each, uid, gid, follow_symlinks=False)


def give_user_namespace(bundle: Bundle) -> None:
    """Have its container get one, whose root owns the rootfs."""
    namespaces = [*bundle.spec["linux"]["namespaces"], {"type": "user"}]
    bundle.update(
        linux={"namespaces": namespaces, "uidMappings": [ids(UIDS)], "gidMappings": [ids(GIDS)]}
    )
    give_away(bundle.rootfs)


def bind(source: Path, destination: str, *options: str, **ids: Any) -> dict[str, Any]:
    options = options or ("bind",)
    return {"destination": destination, "source": str(source), "options": list(options), **ids}


def owners(pid: int) -> dict[str, bool]:
    """Whether each namespace of process *pid* belongs to its user namespace (ioctl_nsfs(2))."""
    user = os.stat(f"/proc/{pid}/ns/user").st_ino
    found = {}
    for kind in ("pid", "net", "ipc", "uts", "mnt", "time"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
        found[kind] = os.fstat(owner).st_ino == user
        os.close(owner)
        os.close(fd)
    return found
