"""What a container may have that no checkpoint carries: told before anything is frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from runtime.processes import tasks_of
from runtime.seccomp.words import NOTIFY, listens

if TYPE_CHECKING:
    from runtime.spec_model import Spec


#: linux/sched.h; it may have been set by exec, or by a process for itself
_SCHED_DEADLINE = 6


def objections(spec: Spec, pids: Iterable[int]) -> Iterator[str]:
    """Why the container of *spec* can be neither checkpointed nor migrated, and the remedies.

    pids: of its processes.
    """
    if listens(spec.linux.seccomp):
        yield (
            f"linux.seccomp: a filter with {NOTIFY} cannot be taken along, its agent stays here: "
            "make it without"
        )
    network = spec.linux.namespace("network")
    if spec.linux.net_devices and network and not network.path:
        yield (
            "linux.netDevices: interfaces of this host cannot be taken along: give it a network "
            "namespace with a path, where they stay"
        )
    if not spec.linux.namespace("mount"):
        yield "it has no mount namespace, so that it cannot be told from the host: make it with one"
    if spec.linux.namespace("user"):
        yield "it has a user namespace, which cannot be restored yet: make it without one"
    for mount in spec.mounts:
        if mount.uid_mappings or not {"idmap", "ridmap"}.isdisjoint(mount.options):
            yield f"its mount on {mount.destination} is idmapped, which CRIU does not restore"
    for pid in pids:
        if any(map(_has_deadline, tasks_of(pid))):
            yield (
                f"process {pid} is scheduled by SCHED_DEADLINE, which CRIU does not restore: "
                "give it another policy (chrt -o -p 0 PID)"
            )


def _has_deadline(task: int) -> bool:
    try:
        return os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK == _SCHED_DEADLINE
    except ProcessLookupError:
        return False
