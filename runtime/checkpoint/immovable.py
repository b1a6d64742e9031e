"""What a container may have that no checkpoint carries: told before anything is frozen."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from runtime.processes import tasks_of
from runtime.scheduling import POLICIES
from runtime.seccomp.words import NOTIFY, listens

if TYPE_CHECKING:
    from runtime.spec.model import Spec


def objections(spec: Spec, pids: Iterable[int]) -> Iterator[str]:
    """Why the container of *spec* can be neither checkpointed nor migrated, and the remedies.

    pids: of its processes.
    """
    if listens(spec.linux.seccomp):
        yield (
            f"linux.seccomp: a filter with {NOTIFY} cannot be taken along, its agent stays here: "
            "make it without"
        )
    if spec.linux.net_devices and spec.linux.owns("network"):
        yield (
            "linux.netDevices: interfaces of this host cannot be taken along: give it a network "
            "namespace with a path, where they stay"
        )
    yield from _of_mounts(spec)
    yield from _joined_beside_user(spec)
    pids = list(pids)
    for has, why in _OF_A_PROCESS:
        for pid in filter(has, pids):
            yield f"process {pid} {why}"
            break  # its siblings have it too, most often


def _of_mounts(spec: Spec) -> Iterator[str]:
    mount = spec.linux.namespace("mount")
    if mount is None:
        yield "it has no mount namespace, so that it cannot be told from the host: make it with one"
    elif mount.path:
        # criu/mount.c: prepare_mnt_ns makes all mounts anew, with a root of its own
        yield (
            f"it has joined the mount namespace {mount.path}, and CRIU restores mounts into a new "
            "one only: make it without a path"
        )


def _joined_beside_user(spec: Spec) -> Iterator[str]:
    """CRIU makes a user namespace anew, whoever's it was, and all others in it.

    It clones every type that differs from its own (criu/pstree.c: prepare_pstree_kobj_ids, with no
    regard to join_ns), and only then enters what it is to join, as root of the new one
    (criu/namespaces.c: join_namespaces; criu/net.c: net_set_ext), which the kernel refuses for a
    namespace of another's (setns(2)). The dump looks for that (criu/namespaces.c: check_user_ns).
    """
    user = spec.linux.namespace("user")
    if user is None:
        return
    if user.path:
        yield (
            f"it has joined the user namespace {user.path}, and CRIU can restore only one that is "
            "its own: make it with uidMappings and gidMappings"
        )
        return
    for each in spec.linux.namespaces:
        if each.path:
            yield (
                f"its {each.type} namespace {each.path} does not belong to its user namespace, "
                "into which CRIU restores all of them: make it with a new one"
            )


def _has_deadline(pid: int) -> bool:
    return any(map(_is_deadline, tasks_of(pid)))


def _is_deadline(task: int) -> bool:
    """Asked of the kernel: exec may have set it, or a process for itself."""
    try:
        return os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK == POLICIES["SCHED_DEADLINE"]
    except ProcessLookupError:
        return False


def _hides_limits(pid: int) -> bool:
    """CRIU asks for them as we do (criu/cr-dump.c: dump_task_rlimits)."""
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def _has_io_uring(pid: int) -> bool:
    """A ring is mapped to be used; its descriptor may be closed, or be registered with itself."""
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:
        return b"anon_inode:[io_uring]" in maps.read()
    return False


def _lacks_pages(pid: int) -> bool:
    """Others watch for its first touch of a page that is not there yet (proc_pid_smaps(5), um).

    A dump takes what is there, and the rest would be zeros. 40 ms a GiB.
    """
    with suppress(OSError), open(f"/proc/{pid}/smaps", "rb") as mappings:
        return any(line.startswith(b"VmFlags:") and b" um " in line for line in mappings)
    return False


_OF_A_PROCESS = (
    (
        _has_deadline,
        "is scheduled by SCHED_DEADLINE, which CRIU does not restore: give it another policy "
        "(chrt -o -p 0 PID)",
    ),
    (
        _hides_limits,
        "runs as another user, and its resource limits may not be read: CRIU needs "
        "CAP_SYS_RESOURCE for that, or the container a user namespace of its own",
    ),
    (_has_io_uring, "uses io_uring, which CRIU cannot take along: have it run without"),
    (_lacks_pages, "waits for pages that a lazy restore or a migration still brings: try later"),
)
