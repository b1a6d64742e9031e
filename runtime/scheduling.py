"""How the kernel is to treat a process: its CPU time, its CPUs, disk, memory nodes and personality.

The words of OCI runtime-spec config.md ("Linux Process") and config-linux.md, the rules that join
several fields, and what init is told in numbers (runtime/process/scheduled.py carries that out).
sched(7), sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime.spec.schema import Faults, child

if TYPE_CHECKING:
    from runtime.process.plan import MemoryPolicyPlan, SchedulerPlan, SchedulingPlan
    from runtime.spec.model import Linux, Process

# linux/sched.h
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
_OF_DEADLINE = ("runtime", "deadline", "period")

# linux/ioprio.h
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13

# linux/personality.h
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

# linux/mempolicy.h
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_WITH_OR_WITHOUT = ("MPOL_PREFERRED",)


def check_process(process: Process, faults: Faults, path: str) -> None:
    """Note what in the scheduler of *process*, at *path*, does not go together."""
    if not (scheduler := process.scheduler):
        return
    policy, where = scheduler["policy"], child(path, "scheduler")
    if scheduler.get("priority") and policy not in _REAL_TIME:
        faults.wrong(f"{where}.priority", f"is for {' and '.join(_REAL_TIME)}, not for {policy}")
    if policy != "SCHED_DEADLINE":
        for name in _OF_DEADLINE:
            if scheduler.get(name):
                faults.wrong(f"{where}.{name}", f"is for SCHED_DEADLINE, not for {policy}")


def check_memory_policy(policy: Mapping[str, Any], faults: Faults, path: str) -> None:
    """Note where mode and nodes do not go together (set_mempolicy(2))."""
    if not policy:
        return
    mode, count = policy["mode"], len(policy.get("nodes", ()))
    if mode in _WITHOUT_NODES and count:
        why = f"memory policy mode requires 0 nodes but got {count}: {mode}"
        faults.wrong(child(path, "nodes"), why)
    elif mode not in (*_WITHOUT_NODES, *_WITH_OR_WITHOUT) and not count:
        why = f"memory policy mode requires at least one node but got 0: {mode}"
        faults.wrong(child(path, "nodes"), why)


def plan(process: Process, linux: Linux) -> SchedulingPlan | None:
    """What init has to set for *process* in a container with *linux*; None: nothing."""
    found: SchedulingPlan = {
        "scheduler": _scheduler(process.scheduler),
        "with_cpus": bool(linux.resources.get("cpu", {}).get("cpus")),
        "io_priority": _io_priority(process.io_priority),
        "personality": PERSONALITIES[linux.personality["domain"]] if linux.personality else None,
        "memory_policy": _memory_policy(linux.memory_policy),
    }
    asked = ("scheduler", "io_priority", "personality", "memory_policy")
    return found if any(found[name] is not None for name in asked) else None  # type: ignore[literal-required]


def plan_of_restored(process: Process, linux: Linux) -> SchedulingPlan | None:
    """The same for what is restored: CRIU gives each thread the scheduler that it had."""
    return plan(process._replace(scheduler={}), linux)


def _scheduler(scheduler: Mapping[str, Any]) -> SchedulerPlan | None:
    if not scheduler:
        return None
    return {
        "policy": POLICIES[scheduler["policy"]],
        "flags": _joined(FLAGS, scheduler.get("flags", ())),
        "nice": scheduler.get("nice", 0),
        "priority": scheduler.get("priority", 0),
        "runtime": scheduler.get("runtime", 0),
        "deadline": scheduler.get("deadline", 0),
        "period": scheduler.get("period", 0),
    }


def _io_priority(wanted: Mapping[str, Any]) -> int | None:
    if not wanted:
        return None
    return IO_CLASSES[wanted["class"]] << _IO_CLASS_SHIFT | int(wanted.get("priority", 0))


def _memory_policy(policy: Mapping[str, Any]) -> MemoryPolicyPlan | None:
    if not policy:
        return None
    mode = MEMORY_MODES[policy["mode"]] | _joined(MEMORY_FLAGS, policy.get("flags", ()))
    return {"mode": mode, "nodes": sum(1 << node for node in policy.get("nodes", ()))}


def _joined(numbers: Mapping[str, int], names: Iterable[str]) -> int:
    bits = 0
    for name in names:
        bits |= numbers[name]
    return bits
