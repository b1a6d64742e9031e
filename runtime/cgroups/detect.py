"""Which cgroup hierarchies are mounted here, and the manager that drives them.

v2 is driven where it is alone. Where v1 controllers are mounted beside it ("hybrid", the v2 tree
serves systemd or nobody), v1 is: the kernel lends each controller to one hierarchy only.
cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from runtime.cgroups import tree
from runtime.cgroups.base import CgroupManager
from runtime.cgroups.tree import OUR_PARENT
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager
from runtime.errors import CgroupError
from runtime.rootfs import mountinfo

if TYPE_CHECKING:
    from runtime.rootfs.mountinfo import MountInfo
    from runtime.state import State

#: The hierarchy without controllers in which systemd on a v1 host finds its services' processes.
_SYSTEMD = "name=systemd"
#: Under this name stands the v2 tree beside v1 controllers: it lends none, and shows who belongs.
UNIFIED = "unified"
_USUAL_PLACE = "/sys/fs/cgroup"
_FILESYSTEMS = ("cgroup", "cgroup2")
# Mount options of a v1 hierarchy that are no controllers.
_OPTIONS = frozenset(
    ("rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods")
)


class Mount(NamedTuple):
    """One mounted cgroup hierarchy."""

    path: Path
    #: st_dev of its files
    device: int
    #: "cgroup" for v1, "cgroup2" for v2
    kind: str
    #: v1: what is attached to it
    controllers: tuple[str, ...]


class Hierarchies(NamedTuple):
    """The mounted hierarchies, as this process sees them."""

    #: v1: controller -> mount point
    v1: Mapping[str, Path]
    v2: Path | None

    @property
    def version(self) -> Literal["v1", "v2"]:
        """The version that is driven."""
        return "v1" if any(name != _SYSTEMD for name in self.v1) else "v2"


def manager(cgroups_path: str, *, paths: Mapping[str, str] | None = None) -> CgroupManager:
    """The manager of the cgroups at *cgroups_path*, absolute within each hierarchy.

    paths: as saved in State.cgroup_paths; then nothing is detected, and they are used as they are.
    Where there are none in it, the container has none.
    Raises CgroupError for the root: whoever asks for a manager may be about to kill what is in it.
    """
    if paths == {}:
        from runtime.cgroups.absent import NoCgroups  # noqa: PLC0415 - for few containers

        return NoCgroups()
    if paths:
        saved = {name: Path(path) for name, path in paths.items()}
        return V2Manager(saved) if "" in saved else V1Manager(saved)
    relative = cgroups_path.strip("/")
    if not relative:
        raise CgroupError(_USUAL_PLACE, "is the root of all cgroups: none of a container's")
    found = detect()
    if found.version == "v1":
        roots = {**found.v1, **({UNIFIED: found.v2} if found.v2 else {})}
        return V1Manager({name: root / relative for name, root in roots.items()})
    if found.v2 is None:
        raise CgroupError(_USUAL_PLACE, "no cgroup filesystem is mounted here: mount one")
    return V2Manager({"": found.v2 / relative})


def unit_paths(cgroups_path: str, container_id: str) -> dict[str, Path]:
    """The cgroups of a container that systemd shall make; linux.cgroupsPath is its unit then.

    Raises UnsupportedField for a path that names no unit, CgroupError where there is no systemd.
    """
    from runtime.cgroups.systemd import base_of  # noqa: PLC0415 - lazy: for few commands
    from runtime.cgroups.units import unit_of  # noqa: PLC0415 - lazy: for few commands

    unit = unit_of(cgroups_path, container_id, rootless=os.geteuid() != 0)
    return manager(base_of(unit) + unit.path).paths


def of_state(state: State) -> CgroupManager:
    """The manager of a container's cgroups."""
    if not state.systemd_cgroup:
        return manager("", paths=state.cgroup_paths)
    from runtime.cgroups.systemd import SystemdV1, SystemdV2  # noqa: PLC0415 - lazy: for few commands

    saved = {name: Path(path) for name, path in state.cgroup_paths.items()}
    return (SystemdV2 if "" in saved else SystemdV1)(saved, state.annotations)


def cgroup_version() -> Literal["v1", "v2"]:
    """The version of cgroups that containers of this host live in."""
    return detect().version


def resolve_path(cgroups_path: str, container_id: str) -> str:
    """The absolute path for linux.cgroupsPath: relative ones and none lie below /migrator."""
    ours = PurePosixPath("/", OUR_PARENT)
    return str(ours / (cgroups_path or container_id))


def detect() -> Hierarchies:
    """Look at what is mounted now."""
    mounts = cgroup_mounts(mountinfo.of_thread(*_FILESYSTEMS))
    return arrange(mount for mount in mounts if _is_visible(mount))


def move_to_roots(pid: int) -> None:
    """Take *pid* out of the cgroups that it was started in, whose owner may end all in them.

    A session's scope ends with the session (logind.conf(5): KillUserProcesses). What is refused is
    left: a process is then where it was.
    """
    found = detect()
    for root in dict.fromkeys([*found.v1.values(), *([found.v2] if found.v2 else [])]):
        with suppress(CgroupError):
            tree.write(root / tree.PROCESSES, str(pid))


def current_paths() -> dict[str, str]:
    """The cgroups that this process is in, as State.cgroup_paths has those of a container."""
    found = detect()
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            root = found.v1.get(name) if name else found.v2
            if root is not None and (found.version == "v1") == bool(name):
                inside = root / path.lstrip("/")
                # what is mounted may be a part of the hierarchy
                paths[name] = str(inside if inside.is_dir() else root)
    return paths


def cgroup_mounts(table: Iterable[MountInfo]) -> Iterator[Mount]:
    """The cgroup mounts in *table*, hidden ones included."""
    for info in table:
        if info.fstype in _FILESYSTEMS:
            controllers = tuple(filter(_is_controller, info.options))
            yield Mount(Path(info.point), info.device, info.fstype, controllers)


def arrange(mounts: Iterable[Mount]) -> Hierarchies:
    """Sort *mounts* out; of several mounts of one hierarchy that in the usual place counts."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for mount in sorted(mounts, key=lambda mount: not mount.path.is_relative_to(_USUAL_PLACE)):
        if mount.kind == "cgroup2":
            v2 = v2 or mount.path
        else:
            v1 |= {name: mount.path for name in mount.controllers if name not in v1}
    return Hierarchies(v1, v2)


def _is_controller(option: str) -> bool:
    return option == _SYSTEMD or (option not in _OPTIONS and "=" not in option)


def _is_visible(mount: Mount) -> bool:
    """Whether the mount is what its path leads to: another may lie over it."""
    try:
        return mount.path.stat().st_dev == mount.device
    except OSError:
        return False
