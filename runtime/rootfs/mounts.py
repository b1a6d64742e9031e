"""From the spec's mounts to what is to be done, with cgroup mounts spelled out.

Pure: nothing is mounted here, mounting.py does that. OCI runtime-spec config.md "Mounts".
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtime.cgroups.detect import UNIFIED
from runtime.rootfs.mount_options import REPLACED, Options, parse_options
from runtime.rootfs.sources import OWN_USER_NAMESPACE
from runtime.spec.model import IdMapping, Linux, Mount, Namespace, Spec

if TYPE_CHECKING:
    from runtime.process.plan import IdMaps, MountPlan

BIND = "bind"
REMOUNT = "remount"
CGROUP_TYPES = ("cgroup", "cgroup2")


class MountTable(NamedTuple):
    """All that is mounted inside a rootfs, in order, and the links that go with it."""

    mounts: list[MountPlan]
    #: (what it points to, where it is)
    symlinks: list[tuple[str, str]]
    #: what the ids of idmapped mounts are mapped to, each once
    idmaps: list[IdMaps]

    def binds(self) -> list[tuple[str, str]]:
        """(destination, source) of every bind mount: external to CRIU."""
        return [(m["destination"], m["source"]) for m in self.mounts if m["fstype"] == BIND]


def plan(
    mounts: Sequence[Mount],
    *,
    bundle: Path,
    rootfs: Path,
    cgroup_paths: Mapping[str, str],
    cgroup_namespace: Namespace | None,
    user_namespace: bool,
) -> MountTable:
    """Say what is to be mounted for the *mounts* of a spec.

    cgroup_paths: as in State.cgroup_paths; a mount of type cgroup shows these, and no other cgroup,
    but on v2 without a cgroup namespace: all of them.
    rootfs: a destination may be given with it before. user_namespace: the container has one.
    Raises ValueError, which names the destination, for what is not carried out.
    """
    table = MountTable([], [], [])
    for given in mounts:
        try:
            mount = given._replace(destination=_below(given.destination, rootfs))
            options = parse_options(mount.options)
            _check(mount, options)
            idmap = _idmap(mount, options, table.idmaps, user_namespace=user_namespace)
        except ValueError as exc:
            raise ValueError(f"mount {given.destination}: {exc}") from None
        if mount.type not in CGROUP_TYPES or _is_bind(mount, options):
            table.mounts.append({**_one(mount, options, bundle), "idmap": idmap})
        elif set(cgroup_paths) <= {""}:
            table.mounts.append(_unified(mount, options, cgroup_paths, cgroup_namespace))
        else:
            _legacy(table, mount, options, cgroup_paths)
    return table


def of_spec(spec: Spec, bundle: Path, cgroup_paths: Mapping[str, str]) -> MountTable:
    """What is mounted in the container that *spec*, of *bundle*, describes."""
    return plan(
        spec.mounts,
        bundle=bundle,
        rootfs=spec.rootfs(bundle),
        cgroup_paths=cgroup_paths,
        cgroup_namespace=spec.linux.namespace("cgroup"),
        user_namespace=spec.linux.user_namespace,
    )


def _below(destination: str, rootfs: Path) -> str:
    """The destination as the container sees it."""
    path = posixpath.normpath(f"/{destination.lstrip('/')}")
    prefix = f"{rootfs}/"
    return f"/{path.removeprefix(prefix)}" if path.startswith(prefix) else destination


def _is_bind(mount: Mount, options: Options) -> bool:
    return options.bind or mount.type == BIND


def _check(mount: Mount, options: Options) -> None:
    if posixpath.normpath(f"/{mount.destination.lstrip('/')}") == "/":
        raise ValueError("a mount over the root is not supported: give it as root.path")
    if options.data and (options.remount or _is_bind(mount, options)):
        name = options.data[0][0]
        raise ValueError(f"option {name} is one of a filesystem: it cannot be set on a bind mount")
    if _is_bind(mount, options) and not (mount.source or options.remount):
        raise ValueError("a bind mount needs a source")
    if not (mount.type or options.remount or options.bind):
        raise ValueError("neither a type nor the option bind or rbind is given")
    if "tmpcopyup" in options.kinds and (mount.type != "tmpfs" or _is_bind(mount, options)):
        raise ValueError("tmpcopyup is for a new tmpfs only")


def _idmap(
    mount: Mount, options: Options, idmaps: list[IdMaps], *, user_namespace: bool
) -> int | None:
    """The number of the mount's id maps, which are added to *idmaps*; None: it has none."""
    if not (mount.uid_mappings or mount.gid_mappings or options.kinds & {"idmap", "ridmap"}):
        return None
    if not _is_bind(mount, options) or options.remount:
        raise ValueError("only a bind mount can be idmapped")
    if not (mount.uid_mappings or mount.gid_mappings):
        if not user_namespace:
            raise ValueError("idmap needs uidMappings: the container has no user namespace")
        return OWN_USER_NAMESPACE
    if not (mount.uid_mappings and mount.gid_mappings):
        raise ValueError("an idmapped mount needs both uidMappings and gidMappings")
    maps = (id_map(mount.uid_mappings), id_map(mount.gid_mappings))
    if maps not in idmaps:
        idmaps.append(maps)
    return idmaps.index(maps)


def id_map(mappings: Sequence[IdMapping]) -> str:
    """*mappings* as /proc/PID/uid_map takes them (user_namespaces(7))."""
    return "".join(f"{each.container_id} {each.host_id} {each.size}\n" for each in mappings)


def own_idmap(linux: Linux) -> IdMaps | None:
    """The maps of the container's new user namespace; None without."""
    if not linux.owns("user"):
        return None
    return id_map(linux.uid_mappings), id_map(linux.gid_mappings)


def _one(mount: Mount, options: Options, bundle: Path) -> MountPlan:
    if options.remount:
        return _planned(REMOUNT, "", mount, options)
    if _is_bind(mount, options):
        return _planned(BIND, str(bundle / mount.source), mount, options)
    return _planned(mount.type, mount.source, mount, options)


def _planned(fstype: str, source: str, mount: Mount, options: Options) -> MountPlan:
    return {
        "fstype": fstype,
        "source": source,
        "destination": f"/{mount.destination.lstrip('/')}",
        "recursive": options.recursive,
        "attr_set": options.attr_set,
        "attr_clr": options.attr_clr,
        "replaced": _replaced(fstype, options),
        "recursive_set": options.recursive_set,
        "recursive_clr": options.recursive_clr,
        "propagation": list(options.propagation),
        "options": list(options.data),
        "copy_up": "tmpcopyup" in options.kinds,
        "idmap": None,
        "idmap_recursive": "ridmap" in options.kinds,
    }


def _replaced(fstype: str, options: Options) -> int:
    """What a bind mount loses of its source's attributes: with one of its own, all the others."""
    return REPLACED & ~options.attr_set if fstype == BIND and options.has_attributes else 0


def _unified(
    mount: Mount, options: Options, cgroup_paths: Mapping[str, str], namespace: Namespace | None
) -> MountPlan:
    """In a cgroup namespace of its own a new mount has the container's cgroup as its root.

    Without one the whole hierarchy is bound: in there /proc/PID/cgroup names paths from its root,
    and a service manager of the container's looks for them below the mount (cgroups(7)).
    """
    if namespace is not None and not namespace.path:
        return _planned("cgroup2", mount.source or "cgroup2", mount, options)
    source = cgroup_paths[""] if namespace else _mount_point(cgroup_paths[""])
    return _planned(BIND, source, mount, options._replace(data=()))


def _legacy(
    table: MountTable, mount: Mount, options: Options, cgroup_paths: Mapping[str, str]
) -> None:
    """A tmpfs with one bind mount for each hierarchy, which CRIU takes as external mounts.

    A mount of the v1 filesystem itself would do too, in a cgroup namespace, but CRIU cannot restore
    one: it mounts hierarchies of its own.
    """
    tmpfs = options._replace(data=(("mode", "755"),))
    table.mounts.append(_planned("tmpfs", "tmpfs", mount, tmpfs))
    binds: dict[str, str] = {}
    for controller, directory in cgroup_paths.items():
        # No hierarchy of v1's.
        if controller in ("", UNIFIED):
            continue
        name = posixpath.basename(_mount_point(directory))
        below = mount._replace(destination=f"{mount.destination}/{name}")
        if name not in binds:
            binds[name] = directory
            table.mounts.append(_planned(BIND, directory, below, options._replace(data=())))
        if controller not in (name, f"name={name}"):
            table.symlinks.append((name, f"{mount.destination}/{controller}"))


def _mount_point(directory: str) -> str:
    """Where the hierarchy of a cgroup is mounted: for v1 its name is such as "cpu,cpuacct"."""
    path = directory
    while not os.path.ismount(path):
        path = posixpath.dirname(path)
    return path
