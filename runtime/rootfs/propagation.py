"""What is mounted on the host later and shows up in the container: by which of its mounts.

Such a mount is a slave of a peer group of the host (mount_namespaces(7)). For CRIU that is a
sharing group with an external master, which it copies from where the mount's source lies
(criu/mount-v2.c: resolve_shared_mounts_v2, restore_one_sharing).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from runtime.constants import MS_SHARED, MS_SLAVE
from runtime.rootfs.mount_options import PROPAGATION

if TYPE_CHECKING:
    from runtime.checkpoint.externals import ExternalMount
    from runtime.process.plan import MountPlan
    from runtime.rootfs.mountinfo import MountInfo
    from runtime.spec.model import Linux

_MASTER, _SHARED = "master:", "shared:"


def receives(mount: MountPlan) -> bool:
    """Whether a bind mount goes on receiving what is mounted on its source."""
    return any(kind in (MS_SLAVE, MS_SHARED) for kind, _ in mount["propagation"])


def shares(mount: MountPlan) -> bool:
    """Whether what is mounted on a bind mount may show up on its source as well."""
    return bool(mount["propagation"]) and mount["propagation"][-1][0] == MS_SHARED


def peers(
    external: Iterable[ExternalMount], table: Iterable[MountInfo], host: Iterable[MountInfo]
) -> tuple[str, ...]:
    """The names of those *external* mounts in *table* that are peers of mounts in *host*."""
    groups = {group for mount in host for group in _numbers(mount, _SHARED)}
    shared = {m.point for m in table if not groups.isdisjoint(_numbers(m, _SHARED))}
    return tuple(each.name for each in external if each.point in shared)


def root_receives(linux: Linux) -> bool:
    """Whether what is mounted in the rootfs shows up in the container."""
    kind, _ = PROPAGATION.get(linux.rootfs_propagation, (0, False))
    return kind == MS_SLAVE


def objections(table: Iterable[MountInfo], apart: Collection[str]) -> Iterator[str]:
    """Why a container with the mounts of *table* cannot be checkpointed, and the remedies.

    apart: points of what a restore gives to CRIU as a mount of its own. It takes one source for all
    slaves of a group, and the kernel copies the group only from a mount that shows all that the
    slave does (move_mount(2) MOVE_MOUNT_SET_GROUP): no such mount shows what lies beside it.
    """
    table = list(table)
    internal = {group for mount in table for group in _numbers(mount, _SHARED)}
    slaves = defaultdict(list)
    for mount in table:
        for group in _numbers(mount, _MASTER):
            if group not in internal:
                slaves[group].append(mount)
    for mounts in slaves.values():
        if len({mount.root for mount in mounts}) > 1 and any(m.point in apart for m in mounts):
            yield (
                f"both {mounts[0].point} and {mounts[-1].point} receive what is mounted on one "
                "mount of the host, and CRIU can restore that in one of them only, where one is "
                "idmapped or there is a user namespace: mount the other with rprivate"
            )


def _numbers(mount: MountInfo, kind: str) -> list[str]:
    """The peer group of that kind, if it has one."""
    return [each.removeprefix(kind) for each in mount.propagation if each.startswith(kind)]
