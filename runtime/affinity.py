"""On which CPUs a process may run, when it comes into a container (sched_setaffinity(2)).

OCI runtime-spec config.md "execCPUAffinity". Without it a process may run on all CPUs of the
container's cpuset, wherever its runtime was kept to: the kernel would have it inherit that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from criu_rpc.logger import Logger
from runtime.oserrors import failing

logger = Logger(__name__)

#: more than any kernel is built for (CONFIG_NR_CPUS); it takes those of the cpuset
_EVERY = range(8192)


def set_initial(pid: int, wanted: Mapping[str, Any]) -> None:
    """Keep *pid* to the initial CPUs of *wanted*, on its way into the container's cgroups."""
    if cpus := wanted.get("initial"):
        _set(pid, cpus, "initial")
    if logger.debugs:
        mask = sum(1 << cpu for cpu in os.sched_getaffinity(pid))
        logger.debug("nsexec: affinity: 0x%x", mask)  # in runc's words, which tests read


def set_final(pid: int, wanted: Mapping[str, Any]) -> None:
    """Keep *pid*, in the cgroups now, to the final CPUs of *wanted*; to all without any."""
    if cpus := wanted.get("final"):
        _set(pid, cpus, "final")
    elif not wanted.get("initial"):
        reset(pid)


def reset(pid: int) -> None:
    """Let *pid* run on every CPU of its cpuset."""
    with suppress(OSError):  # a host that forbids it: then as its runtime
        os.sched_setaffinity(pid, _EVERY)


def _set(pid: int, cpus: Iterable[int], which: str) -> None:
    with failing(f"setting the {which} CPU affinity"):
        os.sched_setaffinity(pid, cpus)
