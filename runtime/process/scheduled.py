"""Have the kernel treat this process as its plan says: CPU time, disk, memory nodes, personality.

Part of what a container's init imports. The calls are made while the process still has its
privileges, and before its seccomp filter is there, which may forbid them. sched_setattr(2),
ioprio_set(2), set_mempolicy(2), personality(2).
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_int32, c_long, c_uint, c_uint32, c_uint64, c_ulong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import MemoryPolicyPlan, SchedulerPlan, SchedulingPlan
    from runtime.process.steps import Steps

# asm/unistd.h; -1 fails with ENOSYS
_SCHED_SETATTR, _IOPRIO_SET, _SET_MEMPOLICY = {
    "x86_64": (314, 251, 238),
    "aarch64": (274, 30, 237),
}.get(os.uname().machine, (-1, -1, -1))

_IOPRIO_WHO_PROCESS = 1
_WORD = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long


class _SchedAttr(ctypes.Structure):
    # linux/sched/types.h, SCHED_ATTR_SIZE_VER1
    _fields_ = (
        ("size", c_uint32),
        ("sched_policy", c_uint32),
        ("sched_flags", c_uint64),
        ("sched_nice", c_int32),
        ("sched_priority", c_uint32),
        ("sched_runtime", c_uint64),
        ("sched_deadline", c_uint64),
        ("sched_period", c_uint64),
        ("sched_util_min", c_uint32),
        ("sched_util_max", c_uint32),
    )


def apply(plan: SchedulingPlan, step: Steps) -> None:
    """Take on all of *plan*; a failure is that of a step of its own."""
    if plan["memory_policy"] is not None:
        with step("setting the memory policy"):
            _set_memory_policy(plan["memory_policy"])
    if plan["personality"] is not None:
        with step("setting the personality"):
            _checked(_libc.personality(c_ulong(plan["personality"])))
    if plan["io_priority"] is not None:
        with step("setting the I/O priority"):
            who = (c_int(_IOPRIO_WHO_PROCESS), c_int(0))
            _checked(_libc.syscall(c_long(_IOPRIO_SET), *who, c_int(plan["io_priority"])))
    # The last one: with a deadline, what this process does next may take long.
    if plan["scheduler"] is not None:
        with step("setting the scheduler"):
            _set_scheduler(plan["scheduler"], with_cpus=plan["with_cpus"])


def _set_scheduler(plan: SchedulerPlan, *, with_cpus: bool) -> None:
    attributes = _SchedAttr(
        size=ctypes.sizeof(_SchedAttr),
        sched_policy=plan["policy"],
        sched_flags=plan["flags"],
        sched_nice=plan["nice"],
        sched_priority=plan["priority"],
        sched_runtime=plan["runtime"],
        sched_deadline=plan["deadline"],
        sched_period=plan["period"],
    )
    call = (c_long(_SCHED_SETATTR), c_int(0), ctypes.byref(attributes), c_uint(0))
    try:
        _checked(_libc.syscall(*call))
    except PermissionError as exc:
        if with_cpus:
            # A deadline is admitted only for a process that may run on all CPUs (sched(7)).
            exc.strerror = (
                "the process scheduler can't be used together with AllowedCPUs: "
                "take linux.resources.cpu.cpus or process.scheduler out"
            )
        raise


def _set_memory_policy(plan: MemoryPolicyPlan) -> None:
    nodes = plan["nodes"]
    count = nodes.bit_length() // _WORD + 1 if nodes else 0
    words = (c_ulong * count)(*(nodes >> _WORD * i & 2**_WORD - 1 for i in range(count)))
    # The kernel reads one bit less than it is told.
    bits = c_ulong(_WORD * count + 1 if count else 0)
    mask = words if count else None
    _checked(_libc.syscall(c_long(_SET_MEMPOLICY), c_int(plan["mode"]), mask, bits))


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
