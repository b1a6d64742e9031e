"""What of a container lies outside of it, and so is named to CRIU instead of being dumped.

At a dump each external mount, namespace and file gets a name; at a restore the name gets what it
stands for on this host. A bind mount's name is its destination in the spec. criu(8) --external,
--inherit-fd, --join-ns.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from criu_rpc.options import JoinNamespace
from runtime import namespaces
from runtime.errors import SetupFailed
from runtime.rootfs import devices, mounts, propagation
from runtime.rootfs.mountinfo import MountInfo
from runtime.rootfs.resolve import is_null, open_in_root, path_in_root
from runtime.rootfs.sources import OWN_USER_NAMESPACE
from runtime.spec.model import Spec

if TYPE_CHECKING:
    from runtime.process.plan import DevicePlan, IdMaps

#: name of every masked file: all are the null device, on every host
NULL = "/dev/null"

_NAMESPACE_KEYS = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
# criu/namespaces.c join_ns_add; "network" and "pid" go by descriptor, and immovable.py says why no
# others can be joined
_JOINED = {"ipc": "ipc", "uts": "uts", "time": "time"}


class Bind(NamedTuple):
    """A bind mount of the spec."""

    destination: str
    source: str
    recursive: bool
    #: what its ids are mapped to
    idmap: IdMaps | None = None
    #: those of the mounts below too
    idmap_recursive: bool = False
    #: none of a path, but a new filesystem of that type
    fstype: str = ""
    #: what is mounted on the source later comes along
    receives: bool = False
    #: what is mounted on it shows up on the source
    shares: bool = False


class Source(NamedTuple):
    """What an external mount shows on this host."""

    name: str
    path: str
    idmap: IdMaps | None = None
    #: a new one, of which the path is the source
    fstype: str = ""
    #: what in it is shown, in which others may have put links since: none is followed
    below: str = ""


class ExternalMount(NamedTuple):
    """A mount as a dump has to be told of it."""

    point: str
    name: str


def binds(spec: Spec, bundle: Path, cgroup_paths: Mapping[str, str]) -> list[Bind]:
    """The bind mounts of *spec*, and those that show its cgroups.

    With a user namespace, of whatever kind: CRIU would make one in the name of its root, to whom
    the cgroup namespace does not belong (cgroup_namespaces(7)).
    """
    table = mounts.of_spec(spec, bundle, cgroup_paths)
    own = mounts.own_idmap(spec.linux)
    idmaps: dict[int | None, IdMaps | None] = {None: None, OWN_USER_NAMESPACE: own}
    idmaps.update(enumerate(table.idmaps))
    return [
        Bind(
            os.path.normpath(mount["destination"]),
            mount["source"],
            mount["recursive"],
            idmaps[mount["idmap"]],
            mount["idmap_recursive"],
            "" if mount["fstype"] == mounts.BIND else mount["fstype"],
            propagation.receives(mount),
            propagation.shares(mount),
        )
        for mount in table.mounts
        if mount["fstype"] == mounts.BIND or (own and mount["fstype"] in mounts.CGROUP_TYPES)
    ]


def mounts_to_dump(
    spec: Spec, all_binds: Iterable[Bind], pid: int, table: Iterable[MountInfo]
) -> list[ExternalMount]:
    """The external mounts that the container of process *pid* has now, of those in *table*."""
    mounted = {info.point for info in table}
    with _root_of(pid) as root_fd:
        found = [
            ExternalMount(point, bind.destination)
            for bind in all_binds
            if (point := _point(root_fd, bind.destination)) is not None
        ]
        found += [ExternalMount(point, NULL) for point in _masked_files(root_fd, spec)]
        known = {mount.point for mount in found}
        found += [
            ExternalMount(point, device["path"])
            for device in devices.plan(spec.linux.devices, spec.mounts)[0]
            if (point := _point(root_fd, device["path"], device)) in mounted - known
        ]
    return found


def submounts(
    external: Iterable[ExternalMount], all_binds: Iterable[Bind], table: Iterable[MountInfo]
) -> list[ExternalMount]:
    """What lies mounted below bind mounts: it came along, or later, and is as external as they."""
    external = list(external)
    known = {mount.point for mount in external}
    spread = {bind.destination for bind in all_binds if bind.recursive or bind.receives}
    return [
        ExternalMount(info.point, above.name + info.point.removeprefix(above.point))
        for above in external
        if above.name in spread
        for info in table
        if info.point.startswith(f"{above.point}/") and info.point not in known
    ]


def shown_apart(
    spec: Spec,
    all_binds: Iterable[Bind],
    external: Iterable[ExternalMount],
    below: Iterable[ExternalMount],
) -> set[str]:
    """Where those are that a restore shows to CRIU as mounts of their own (shelf.py)."""
    mapped = {bind.destination for bind in all_binds if bind.idmap or spec.linux.user_namespace}
    return {each.point for each in external if each.name in mapped} | {each.point for each in below}


def mounts_to_restore(
    spec: Spec, all_binds: Iterable[Bind], submount_names: Iterable[str]
) -> list[Source]:
    """What every external mount shows on this host."""
    by_name = {bind.destination: bind for bind in all_binds}
    found = [
        Source(bind.destination, bind.source, bind.idmap, bind.fstype) for bind in by_name.values()
    ]
    found += filter(None, (_below(name, by_name) for name in submount_names))
    found += [Source(NULL, NULL)]
    nodes = devices.plan(spec.linux.devices, spec.mounts)[0]
    names = {source.name for source in found}
    return [*found, *(Source(path, path) for path in _of_host(nodes) if path not in names)]


def peers_to_restore(
    sources: Iterable[Source], all_binds: Iterable[Bind], names: Collection[str]
) -> list[Source]:
    """Those of the dumped mounts *names* that config.json has be shared, or those above them."""
    shared = {bind.destination for bind in all_binds if bind.shares}
    return [
        each
        for each in sources
        if each.name in names and each.name.removesuffix(each.below) in shared
    ]


def _below(name: str, binds: Mapping[str, Bind]) -> Source | None:
    above = max((each for each in binds if name.startswith(f"{each}/")), key=len, default=None)
    if above is None:
        return None
    bind = binds[above]
    idmap = bind.idmap if bind.idmap_recursive else None
    return Source(name, bind.source, idmap, below=name.removeprefix(above))


def _of_host(nodes: Iterable[DevicePlan]) -> Iterator[str]:
    """Those that are the same on this host: where mknod is refused, they are bound from it."""
    for node in nodes:
        with suppress(OSError):
            if devices.is_node(node, os.stat(node["path"], follow_symlinks=False)):
                yield node["path"]


def namespaces_to_dump(spec: Spec, pid: int) -> list[str]:
    """Network and pid namespaces that the container has joined by path, in CRIU's words."""
    return [
        f"{kind}[{os.stat(f'/proc/{pid}/ns/{kind}').st_ino}]:{key}"
        for name, (kind, key) in _NAMESPACE_KEYS.items()
        if (namespace := spec.linux.namespace(name)) and namespace.path
    ]


def namespaces_by_path(spec: Spec) -> dict[str, Path]:
    """CRIU's key of each network or pid namespace given by path -> that path.

    Raises SetupFailed when there is no such namespace on this host.
    """
    found = {}
    for name, (_, key) in _NAMESPACE_KEYS.items():
        namespace = spec.linux.namespace(name)
        if namespace and namespace.path:
            namespaces.check_path(name, namespace.path)
            found[key] = Path(namespace.path)
    return found


def namespaces_to_join(spec: Spec) -> tuple[JoinNamespace, ...]:
    """The other namespaces given by path. Raises SetupFailed when CRIU cannot join one."""
    joined = []
    for namespace in spec.linux.namespaces:
        if not namespace.path or namespace.type in _NAMESPACE_KEYS:
            continue
        if namespace.type not in _JOINED:
            raise SetupFailed(
                f"joining {namespace.type} namespace {namespace.path}",
                "CRIU cannot restore into a given one",
            )
        namespaces.check_path(namespace.type, namespace.path)
        joined.append(JoinNamespace(_JOINED[namespace.type], Path(namespace.path)))
    return tuple(joined)


def _masked_files(root_fd: int, spec: Spec) -> Iterator[str]:
    """A masked directory is a tmpfs, which CRIU dumps by itself."""
    for path in spec.linux.masked_paths:
        with suppress(OSError):
            fd = open_in_root(root_fd, path)
            try:
                if is_null(fd):
                    yield path_in_root(root_fd, fd)
            finally:
                os.close(fd)


def _point(root_fd: int, destination: str, device: DevicePlan | None = None) -> str | None:
    """Where *destination* is, its symbolic links followed as when it was mounted.

    None where it is no more, or is not that *device*.
    """
    try:
        fd = open_in_root(root_fd, destination)
    except OSError:
        return None  # unmounted and gone
    try:
        other = device is not None and not devices.is_node(device, os.fstat(fd))
        return None if other else path_in_root(root_fd, fd)
    finally:
        os.close(fd)


@contextmanager
def _root_of(pid: int) -> Iterator[int]:
    """The root directory of a process as a descriptor."""
    fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
