"""The five capability sets of a process: names to masks, masks to the kernel (capabilities(7)).

Part of what a container's init imports.
"""

from __future__ import annotations

from runtime.constants import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
)
from runtime.syscalls import capset, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.process.plan import CapabilityPlan
    from runtime.spec.model import Capabilities

# In the order of their numbers in linux/capability.h.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: Iterable[str]) -> int:
    """The bits of capability *names*; without those that there are not."""
    bits = 0
    for name in names:
        if name in _NUMBERS:
            bits |= 1 << _NUMBERS[name]
    return bits


def names_of(bits: int) -> list[str]:
    """The names of the capabilities in *bits*, for a message."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def plan(sets: Capabilities) -> CapabilityPlan:
    """The masks of the five sets.

    As with runc, what the kernel would not have is left out with a warning: a capability that it
    does not know, one in the ambient set that is not permitted and inheritable (capabilities(7)).
    """
    if unknown := sorted({name for names in sets for name in names} - _NUMBERS.keys()):
        _warn("ignoring unknown or unavailable capabilities: %s", ", ".join(unknown))
    permitted, inheritable = mask(sets.permitted), mask(sets.inheritable)
    ambient = mask(sets.ambient)
    for name in names_of(ambient & ~(permitted & inheritable)):
        _warn("can't raise ambient capability %s: it is not permitted and inheritable", name)
    return {
        "bounding": mask(sets.bounding),
        "effective": mask(sets.effective),
        "inheritable": inheritable,
        "permitted": permitted,
        "ambient": ambient & permitted & inheritable,
    }


def _warn(text: str, name: str) -> None:
    from criu_rpc.logger import Logger  # noqa: PLC0415 - init imports this module, and never warns

    Logger(__name__).warning(text, name)


def missing(sets: CapabilityPlan, available: int) -> list[str]:
    """What *sets* ask for beyond the *available* mask: the kernel gives nobody more."""
    wanted = 0
    for bits in sets.values():
        assert isinstance(bits, int)
        wanted |= bits
    return names_of(wanted & ~available)


def available(*, user_namespace: bool) -> int:
    """The capabilities that a process of ours can have: our own bounding set.

    In a user namespace that it comes into it is all that there are (user_namespaces(7)).
    """
    if user_namespace:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as last:
            return (2 << int(last.read())) - 1
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapBnd:"):
                return int(line.split()[1], 16)
    raise AssertionError("/proc/self/status has no CapBnd")


def limit_bounding_set(bounding: int, last: int) -> None:
    """Drop all capabilities up to number *last* from the bounding set but those of *bounding*."""
    for number in range(last + 1):
        if not bounding >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def apply(sets: CapabilityPlan) -> None:
    """Give this thread its effective, permitted, inheritable and ambient set, in that order."""
    capset(sets["effective"], sets["permitted"], sets["inheritable"])
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(sets["ambient"].bit_length()):
        if sets["ambient"] >> number & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
