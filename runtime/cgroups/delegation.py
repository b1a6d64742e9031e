"""A v2 cgroup that the container may manage itself: it belongs to the container's user then.

OCI runtime-spec config-linux.md "Cgroup ownership"; kernel cgroup-v2.rst "Model of Delegation".
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups.base import CgroupManager
    from runtime.spec.model import Mount, Spec

# The kernel's own list of what may be given away; this one is for kernels before 4.15.
_LIST = Path("/sys/kernel/cgroup/delegate")
_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def carry_out(spec: Spec, cgroup: CgroupManager) -> None:
    """Give *cgroup*, which is there, to the container's user, if *spec* wants that."""
    if spec.linux.uid_mappings and (uid := owner(spec)) is not None:
        delegate(cgroup, uid)


def owner(spec: Spec) -> int | None:
    """The uid on the host of who runs the container, if its cgroup is to be theirs.

    For that it must see it as its own root, writable, and run in a user namespace of its own.
    """
    if not (spec.linux.owns("user") and spec.linux.owns("cgroup")):
        return None
    mount = next((each for each in reversed(spec.mounts) if _is_cgroup(each)), None)
    if mount is None or "ro" in mount.options:
        return None
    uid = spec.process.user.uid
    for each in spec.linux.uid_mappings:
        if 0 <= uid - each.container_id < each.size:
            return each.host_id + uid - each.container_id
    return None


def delegate(cgroup: CgroupManager, uid: int) -> None:
    """Give the cgroup and what the kernel lists of its files to *uid*; v1 has no such thing."""
    directory = cgroup.paths.get("")
    if directory is None:
        return
    names = _LIST.read_text().split() if _LIST.exists() else _FILES
    try:
        os.chown(directory, uid, -1)
        for name in names:
            with suppress(FileNotFoundError):  # a controller's that is not handed down
                os.chown(directory / name, uid, -1)
    except OSError as exc:
        raise CgroupError(directory, f"cannot be given to uid {uid}: {exc.strerror}") from exc


def _is_cgroup(mount: Mount) -> bool:
    return mount.type in ("cgroup", "cgroup2")
