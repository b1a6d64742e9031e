"""Which namespaces a container gets, and which it joins (namespaces(7), time_namespaces(7))."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtime.constants import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    NS_GET_NSTYPE,
)
from runtime.errors import SetupFailed
from runtime.oserrors import failing
from runtime.spec.model import Namespace, TimeOffset

if TYPE_CHECKING:
    from runtime.process.plan import NamespacePlan


class Kind(NamedTuple):
    """A type of namespace: its flag for clone(2), and its name below /proc/PID/ns."""

    flag: int
    file: str


# In the order in which they are joined.
KINDS: Mapping[str, Kind] = {
    "user": Kind(CLONE_NEWUSER, "user"),
    "pid": Kind(CLONE_NEWPID, "pid"),
    "network": Kind(CLONE_NEWNET, "net"),
    "ipc": Kind(CLONE_NEWIPC, "ipc"),
    "uts": Kind(CLONE_NEWUTS, "uts"),
    "cgroup": Kind(CLONE_NEWCGROUP, "cgroup"),
    "time": Kind(CLONE_NEWTIME, "time"),
    "mount": Kind(CLONE_NEWNS, "mnt"),
}


def plan(namespaces: Sequence[Namespace], offsets: Mapping[str, TimeOffset]) -> NamespacePlan:
    """Say how init gets into *namespaces*.

    Raises SetupFailed when a path to join is not a namespace of its type.
    """
    own = {each.type for each in namespaces if not each.path}
    paths = {each.type: each.path for each in namespaces if each.path}
    for kind, path in paths.items():
        check_path(kind, path)
    if "mount" in paths and os.path.samefile(paths["mount"], "/proc/self/ns/mnt"):
        why = "it is this host's own, whose root would become the container's: leave it out"
        raise SetupFailed(f"joining mount namespace {paths['mount']}", why)
    new = clone_flags(namespaces)
    return {
        "join": [(paths[kind], KINDS[kind].flag) for kind in KINDS if kind in paths],
        "unshare": new & ~CLONE_NEWPID,
        "user": "user" in own or "user" in paths,
        "clone": new & CLONE_NEWPID,
        "time_offsets": "".join(
            f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items()
        ),
        "loopback": "network" in own,
    }


def check_path(kind: str, path: str) -> None:
    """Raise SetupFailed unless *path* is a namespace of type *kind* (ioctl_nsfs(2))."""
    step = f"joining {kind} namespace"
    with failing(step):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flag = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        raise SetupFailed(step, f"{path} is not a namespace") from None
    finally:
        os.close(fd)
    if flag != KINDS[kind].flag:
        actual = next((name for name, each in KINDS.items() if each.flag == flag), "unknown")
        raise SetupFailed(step, f"{path} is a {actual} namespace")


def namespace_types() -> tuple[str, ...]:
    """Every type of namespace that a container can have, as the spec names them."""
    return tuple(KINDS)


def is_namespace_supported(kind: str) -> bool:
    """Whether the kernel has namespaces of type *kind*."""
    return os.path.exists(f"/proc/self/ns/{ns_name(kind)}")


def ns_name(kind: str) -> str:
    """The file of a namespace of type *kind* below /proc/PID/ns."""
    return KINDS[kind].file


def path_of(pid: int, kind: str) -> str:
    """Where the namespace of type *kind* of process *pid* can be joined."""
    return f"/proc/{pid}/ns/{ns_name(kind)}"


def clone_flags(namespaces: Iterable[Namespace]) -> int:
    """The CLONE_NEW* flags of those that are new, joined by no path."""
    flags = 0
    for each in namespaces:
        flags |= 0 if each.path else KINDS[each.type].flag
    return flags


def paths_of(pid: int) -> dict[str, str]:
    """Every type of namespace, and where the namespace of process *pid* can be joined."""
    return {name: path_of(pid, name) for name in KINDS}


def different(pid: int) -> int:
    """The CLONE_NEW* flags of the namespaces that process *pid* does not share with this one."""
    flags = 0
    for kind in KINDS.values():
        theirs, ours = os.stat(f"/proc/{pid}/ns/{kind.file}"), os.stat(f"/proc/self/ns/{kind.file}")
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            flags |= kind.flag
    return flags
