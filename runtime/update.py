"""Other limits for a container that runs: what of linux.resources changes, and what stays.

A change names what is to be otherwise; what it leaves out stays as it is, so does what it gives
as 0 or as an empty string where that is no value (callers fill in zeroes). libcontainer's Set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.errors import UnsupportedField
from runtime.spec.fields import RESOURCES
from runtime.spec.reading import parse_changes, parse_resources

if TYPE_CHECKING:
    from runtime.cgroups import CgroupManager
    from runtime.state import State
    from runtime.undo import Undo

logger = Logger(__name__)

# Where 0 is a value.
_ZERO_COUNTS = {
    ("memory", "swappiness"),
    ("memory", "disableOOMKiller"),
    ("memory", "checkBeforeUpdate"),
    ("cpu", "idle"),
    ("cpu", "burst"),
    ("pids", "limit"),
}
# Lists, and what tells their items apart.
_LISTS: Mapping[str, tuple[str, ...]] = {
    "hugepageLimits": ("pageSize",),
    "priorities": ("name",),
    "weightDevice": ("major", "minor"),
    "throttleReadBpsDevice": ("major", "minor"),
    "throttleWriteBpsDevice": ("major", "minor"),
    "throttleReadIOPSDevice": ("major", "minor"),
    "throttleWriteIOPSDevice": ("major", "minor"),
}
# A weight, and what stands beside it in its section when a container is idle, and when it is not.
_WEIGHTS = (("cpu", "shares", "idle", 0), ("unified", "cpu.weight", "cpu.idle", "0"))
_WHERE = Path("linux.resources")


def updated(state: State, cgroup: CgroupManager, changes: Mapping[str, Any], undo: Undo) -> State:
    """Write *changes*, a linux.resources, to *cgroup*; the state that knows of them.

    Raises InvalidSpec or UnsupportedField before anything is written, and CgroupError. *undo*
    takes back what was written.
    """
    changes = RESOURCES.spelled(changes)
    former = state.resources
    wanted = merged(former, checked(changes, former))
    resources = parse_resources(wanted, _WHERE)
    touched = [name for name in changes if name != "devices" and name in resources]
    cgroup.update(resources, touched, undo)
    return state._replace(updated_resources=wanted)


def checked(changes: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """*changes* without what asks for nothing; raises InvalidSpec, UnsupportedField."""
    read = dict(parse_changes(_without_kernel_memory(changes), _WHERE))
    rules = changes.get("devices")
    if rules and rules != former.get("devices"):
        why = "which devices it may use is fixed when a container is created"
        raise UnsupportedField(_WHERE, [("devices", why)])
    read.pop("devices", None)
    return {name: _given(name, value) for name, value in read.items()}


def _without_kernel_memory(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    memory = changes.get("memory")
    if not isinstance(memory, dict):
        return changes
    for name in ("kernel", "kernelTCP"):
        if memory.get(name):
            logger.warning("memory.%s is ignored: runtimes change no limit of it", name)
    kept = {name: each for name, each in memory.items() if name not in ("kernel", "kernelTCP")}
    return {**changes, "memory": kept}


def _given(section: str, value: Any) -> Any:
    if section not in ("memory", "cpu", "pids", "blockIO", "network"):
        return value
    return {
        name: each
        for name, each in value.items()
        if each not in (0, "", ()) or (section, name) in _ZERO_COUNTS
    }


def merged(former: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """*former* with *changes*: objects key by key, lists item by item."""
    result = dict(former)
    for name, value in changes.items():
        old = former.get(name)
        if name in _LISTS:
            result[name] = _merged_list(old or (), value, _LISTS[name])
        elif isinstance(value, Mapping):
            result[name] = merged(old or {}, value)
        else:
            result[name] = value
    memory = changes.get("memory", {})
    if memory.get("limit") == -1 and "swap" not in memory:
        # Without a limit of memory there can be none of memory and swap.
        result["memory"].pop("swap", None)
    for section, weight, idle, no in _WEIGHTS:
        given = changes.get(section, {})
        # What is idle has no weight: with one, it is idle no longer.
        if weight in given and idle not in given and idle in result[section]:
            result[section][idle] = no
    return result


def _merged_list(old: Any, new: Any, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    def key(item: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(item[name] for name in keys)

    items = {key(item): dict(item) for item in old}
    for item in new:
        items[key(item)] = {**items.get(key(item), {}), **item}
    return list(items.values())
