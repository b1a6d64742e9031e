"""From the spec's mounts to what is to be done: options sorted out, cgroup mounts spelled out.

Pure: nothing is mounted here, runtime/rootfs.py does that. OCI runtime-spec config.md "Linux mount
options", mount(8), mount_setattr(2).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtime.constants import (
    MOUNT_ATTR_ATIME_MASK,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)
from runtime.spec_model import Mount, Spec

if TYPE_CHECKING:
    from runtime.process.plan import MountOption, MountPlan

BIND = "bind"
REMOUNT = "remount"
CGROUP_TYPES = ("cgroup", "cgroup2")

# option -> bits to set, bits to clear. "r" before a name: for the mounts below too.
_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    # The kernel takes a new access time mode only together with all of the mask cleared; no bit of
    # the mask is relatime, its default.
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK),
    "relatime": (0, MOUNT_ATTR_ATIME_MASK),
    "atime": (0, MOUNT_ATTR_ATIME_MASK),
    "norelatime": (0, MOUNT_ATTR_ATIME_MASK),
    "nostrictatime": (0, MOUNT_ATTR_ATIME_MASK),
}
_RECURSIVE_ATTRIBUTES = {f"r{name}": bits for name, bits in _ATTRIBUTES.items()}

PROPAGATION = {
    "private": (MS_PRIVATE, False),
    "rprivate": (MS_PRIVATE, True),
    "shared": (MS_SHARED, False),
    "rshared": (MS_SHARED, True),
    "slave": (MS_SLAVE, False),
    "rslave": (MS_SLAVE, True),
    "unbindable": (MS_UNBINDABLE, False),
    "runbindable": (MS_UNBINDABLE, True),
}

_KINDS = frozenset(("bind", "rbind", "remount"))

# Defaults, or what only concerns mount(8) itself.
_NO_EFFECT = frozenset(
    ("defaults", "silent", "loud", "async", "nolazytime", "nomand", "noiversion")
)

_REFUSED = {
    "idmap": "idmapped mounts are not supported yet",
    "ridmap": "idmapped mounts are not supported yet",
    "tmpcopyup": "copying up into a tmpfs is not supported yet",
    "iversion": "the kernel decides by itself which filesystems count versions",
}


#: the options that we carry out ourselves, whatever the filesystem
KNOWN_OPTIONS = _KINDS.union(_ATTRIBUTES, _RECURSIVE_ATTRIBUTES, PROPAGATION, _NO_EFFECT)


class Options(NamedTuple):
    """The options of one mount, each where it belongs."""

    bind: bool
    recursive: bool
    remount: bool
    attr_set: int
    attr_clr: int
    recursive_set: int
    recursive_clr: int
    propagation: tuple[tuple[int, bool], ...]
    #: for the filesystem
    data: tuple[MountOption, ...]


def parse_options(options: Iterable[str]) -> Options:
    """Sort out the option strings of a mount; what is not known is for the filesystem.

    Raises ValueError for an option that is not carried out.
    """
    own, below = _Bits(), _Bits()
    flags = set()
    propagation, data = [], []
    for option in options:
        if why := _REFUSED.get(option):
            raise ValueError(f"{option}: {why}")
        if option in _KINDS:
            flags.add(option)
        elif option in _ATTRIBUTES:
            own.apply(*_ATTRIBUTES[option])
        elif option in _RECURSIVE_ATTRIBUTES:
            below.apply(*_RECURSIVE_ATTRIBUTES[option])
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option not in _NO_EFFECT:
            data += _filesystem_options(option)
    return Options(
        bind=bool(flags & {"bind", "rbind"}),
        recursive="rbind" in flags,
        remount="remount" in flags,
        attr_set=own.set,
        attr_clr=own.clear,
        recursive_set=below.set,
        recursive_clr=below.clear,
        propagation=tuple(propagation),
        data=tuple(data),
    )


class MountTable(NamedTuple):
    """All that is mounted inside a rootfs, in order, and the links that go with it."""

    mounts: list[MountPlan]
    #: (what it points to, where it is)
    symlinks: list[tuple[str, str]]

    def binds(self) -> list[tuple[str, str]]:
        """(destination, source) of every bind mount: external to CRIU."""
        return [(m["destination"], m["source"]) for m in self.mounts if m["fstype"] == BIND]


def plan(
    mounts: Sequence[Mount],
    *,
    bundle: Path,
    cgroup_paths: Mapping[str, str],
    own_cgroup_namespace: bool,
) -> MountTable:
    """Say what is to be mounted for the *mounts* of a spec.

    cgroup_paths: as in State.cgroup_paths; a mount of type cgroup shows these, and no other cgroup.
    Raises ValueError, which names the destination, for what is not carried out.
    """
    table = MountTable([], [])
    for mount in mounts:
        try:
            options = parse_options(mount.options)
            _check(mount, options)
        except ValueError as exc:
            raise ValueError(f"mount {mount.destination}: {exc}") from None
        if mount.type not in CGROUP_TYPES or _is_bind(mount, options):
            table.mounts.append(_one(mount, options, bundle))
        elif set(cgroup_paths) <= {""}:
            table.mounts.append(_unified(mount, options, cgroup_paths, own_cgroup_namespace))
        else:
            _legacy(table, mount, options, cgroup_paths)
    return table


def of_spec(spec: Spec, bundle: Path, cgroup_paths: Mapping[str, str]) -> MountTable:
    """What is mounted in the container that *spec*, of *bundle*, describes."""
    namespace = spec.linux.namespace("cgroup")
    return plan(
        spec.mounts,
        bundle=bundle,
        cgroup_paths=cgroup_paths,
        own_cgroup_namespace=namespace is not None and not namespace.path,
    )


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
        "recursive_set": options.recursive_set,
        "recursive_clr": options.recursive_clr,
        "propagation": list(options.propagation),
        "options": list(options.data),
    }


def _unified(
    mount: Mount, options: Options, cgroup_paths: Mapping[str, str], own_namespace: bool
) -> MountPlan:
    """In a cgroup namespace of its own a new mount has the container's cgroup as its root."""
    if own_namespace:
        return _planned("cgroup2", mount.source or "cgroup2", mount, options)
    return _planned(BIND, cgroup_paths[""], mount, options._replace(data=()))


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
        if not controller:
            continue
        name = _hierarchy(directory)
        below = mount._replace(destination=f"{mount.destination}/{name}")
        if name not in binds:
            binds[name] = directory
            table.mounts.append(_planned(BIND, directory, below, options._replace(data=())))
        if controller not in (name, f"name={name}"):
            table.symlinks.append((name, f"{mount.destination}/{controller}"))


def _hierarchy(directory: str) -> str:
    """The name that the hierarchy of a cgroup is mounted under, such as "cpu,cpuacct"."""
    path = directory
    while not os.path.ismount(path):
        path = posixpath.dirname(path)
    return posixpath.basename(path)


class _Bits:
    """Attribute bits to set and to clear, where the later option wins."""

    def __init__(self) -> None:
        self.set = 0
        self.clear = 0

    def apply(self, to_set: int, to_clear: int) -> None:
        self.set = self.set & ~to_clear | to_set
        self.clear = self.clear & ~(to_set & ~to_clear) | to_clear


def _filesystem_options(option: str) -> list[MountOption]:
    """Split `a=1,b` as mount(2) would; a quoted value keeps its commas."""
    parts = [option] if '"' in option else option.split(",")
    pairs = (part.partition("=") for part in parts if part)
    return [(name, value if equals else None) for name, equals, value in pairs]
