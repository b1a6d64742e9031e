"""What systemd is told of linux.resources, so that it does not set other limits itself: pure.

We write the control files all the same; but systemd writes what it knows whenever it is reloaded,
and shows it. systemd.resource-control(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from criu_rpc.logger import Logger
from runtime.cgroups.devices import ANY, Rule, rules
from runtime.cgroups.kernel_numbers import bits, size_bytes, whole
from runtime.cgroups.resources import is_idle, v2_weight_of_block_io, v2_weight_of_shares
from runtime.errors import InvalidSpec, UnsupportedField

logger = Logger(__name__)

#: name, D-Bus signature, value
Property = tuple[str, tuple[str, Any]]

#: before the name of a property, in an annotation
ANNOTATION_PREFIX = "org.systemd.property."
_INFINITY = 2**64 - 1
_SECOND_US = 1_000_000
# idle, for systemd 252 and later, is a weight of 0
_IDLE: Property = ("CPUWeight", ("t", 0))
# systemd keeps the quota in whole percents.
_QUOTA_STEP_US = 10_000
# the kernel's own, where none is given
_PERIOD_US = 100_000
_TYPES = {"uint64": "t", "int64": "x", "uint32": "u", "int32": "i"}
_FILES = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def properties(
    resources: Mapping[str, Any], *, unified: bool, with_devices: bool = False
) -> list[Property]:
    """The properties for a checked linux.resources.

    unified: cgroup v2. with_devices: those that it allows are told too, and its default when it
    names none: on v1 systemd would allow every device whenever it sets anything. On v2 it attaches
    no program of its own without, and leaves ours.
    Raises InvalidSpec for a value that the kernel would not take either.
    """
    found = list(dict(_v2(resources) if unified else _v1(resources)).items())
    return found if unified or not with_devices else [*found, *_devices(resources)]


def with_quota_of_systemd(resources: Mapping[str, Any]) -> Mapping[str, Any]:
    """*resources* with the CPU quota that systemd makes of theirs, which is never less.

    The control file is to have it from the start: systemd writes it there whenever it is reloaded.
    """
    cpu = resources.get("cpu", {})
    if (quota := cpu.get("quota", 0)) <= 0:
        return resources
    period = cpu.get("period") or _PERIOD_US
    kept = max(quota, _per_second(quota, period) * period // _SECOND_US)
    return {**resources, "cpu": {**cpu, "quota": kept}}


def of_annotations(annotations: Mapping[str, str]) -> list[Property]:
    """org.systemd.property.NAME of the annotations: NAME as in a unit file, the value as GVariant.

    Raises UnsupportedField for what cannot be read.
    """
    return [
        _of_annotation(key.removeprefix(ANNOTATION_PREFIX), value, key)
        for key, value in annotations.items()
        if key.startswith(ANNOTATION_PREFIX)
    ]


def _v2(resources: Mapping[str, Any]) -> Iterator[Property]:
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit:
        yield _number("MemoryMax", limit)
    if swap or limit == -1:
        yield _number("MemorySwapMax", swap - limit if swap > 0 else -1)
    if value := memory.get("reservation"):
        yield _number("MemoryLow", value)
    if cpu.get("idle"):
        yield _IDLE
        if cpu.get("shares"):
            _warn_of_weight("shares")
    elif shares := cpu.get("shares"):
        yield _number("CPUWeight", v2_weight_of_shares(shares))
    yield from _quota(cpu.get("quota", 0), cpu.get("period", 0))
    yield from _cpuset(cpu.get("cpus", ""), cpu.get("mems", ""))
    yield from _tasks(resources)
    if weight := resources.get("blockIO", {}).get("weight"):
        yield _number("IOWeight", v2_weight_of_block_io(weight))
    yield from _unified(resources.get("unified", {}))


def _v1(resources: Mapping[str, Any]) -> Iterator[Property]:
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    if limit := memory.get("limit"):
        yield _number("MemoryLimit", limit)
    if shares := cpu.get("shares"):
        yield _number("CPUShares", shares)
    yield from _quota(cpu.get("quota", 0), cpu.get("period", 0))
    yield from _tasks(resources)
    if weight := resources.get("blockIO", {}).get("weight"):
        yield _number("BlockIOWeight", weight)


def _devices(resources: Mapping[str, Any]) -> Iterator[Property]:
    none: list[tuple[str, str]] = []
    yield "DevicePolicy", ("s", "strict")
    yield "DeviceAllow", ("a(ss)", none)  # what it was told before is forgotten
    yield "DeviceAllow", ("a(ss)", list(_allowed(rules(resources))))


def _quota(quota: int, period: int) -> Iterator[Property]:
    if period:
        yield _number("CPUQuotaPeriodUSec", period)
    if quota > 0:
        yield _number("CPUQuotaPerSecUSec", _per_second(quota, period))
    elif quota or period:
        yield _number("CPUQuotaPerSecUSec", -1)


def _per_second(quota: int, period: int) -> int:
    exact = quota * _SECOND_US // (period or _PERIOD_US)
    return -(-exact // _QUOTA_STEP_US) * _QUOTA_STEP_US


def _cpuset(cpus: str, mems: str, field: str = "cpu.{}") -> Iterator[Property]:
    """systemd has bit masks: bit 0 of the first byte is number 0."""
    for name, kind, text in (("AllowedCPUs", "cpus", cpus), ("AllowedMemoryNodes", "mems", mems)):
        if text:
            mask = _read(bits, text, field.format(kind))
            yield name, ("ay", mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


def _read(how: Callable[[str], int], text: str, field: str) -> int:
    try:
        return how(text)
    except ValueError as exc:
        raise InvalidSpec("config.json", [(f"linux.resources.{field}", str(exc))]) from exc


def _tasks(resources: Mapping[str, Any]) -> Iterator[Property]:
    if (limit := resources.get("pids", {}).get("limit")) is not None:
        yield _number("TasksMax", limit or 1)


def _unified(unified: Mapping[str, str]) -> Iterator[Property]:
    """What systemd has a property for; the rest it does not touch."""
    for file, text in unified.items():
        value, field = text.strip(), f"unified[{file!r}]"
        if file == "cpu.weight" and is_idle(unified):
            _warn_of_weight(file)
        elif name := _FILES.get(file):
            how = size_bytes if file.startswith("memory.") else whole
            yield _number(name, -1 if value == "max" else _read(how, value, field))
        elif file == "cpu.max":
            quota, _, period = value.partition(" ")
            period_us = _read(whole, period, field) if period else 0
            yield from _quota(-1 if quota == "max" else _read(whole, quota, field), period_us)
        elif file == "cpu.idle" and is_idle(unified):
            yield _IDLE
        elif file in ("cpuset.cpus", "cpuset.mems"):
            cpus = file == "cpuset.cpus"
            yield from _cpuset(value if cpus else "", "" if cpus else value, field)


def _warn_of_weight(name: str) -> None:
    logger.warning("unable to apply both cpu.idle and %s: what is idle has no weight", name)


def _allowed(given: Iterable[Rule]) -> Iterator[tuple[str, str]]:
    """DeviceAllow for the rules that allow; what a later one denies, our own files deny."""
    for rule in given:
        if not rule.allow:
            continue
        for kind, word in (("c", "char"), ("b", "block")):
            if rule.type not in ("a", kind):
                continue
            if rule.major == ANY:
                yield f"{word}-*", rule.access
            elif rule.minor == ANY:
                yield from ((f"{word}-{name}", rule.access) for name in _drivers(rule.major, kind))
            else:
                yield f"/dev/{word}/{rule.major}:{rule.minor}", rule.access


def _drivers(major: int, kind: str) -> list[str]:
    """What /proc/devices calls a major number: systemd takes whole ones by name only."""
    with open("/proc/devices", encoding="ascii") as file:
        characters, _, blocks = file.read().partition("Block devices:")
    lines = (line.split() for line in (characters if kind == "c" else blocks).splitlines())
    return [words[1] for words in lines if len(words) == 2 and words[0] == str(major)]


def _number(name: str, value: int) -> Property:
    return name, ("t", min(value, _INFINITY) if value >= 0 else _INFINITY)


def _of_annotation(name: str, text: str, key: str) -> Property:
    if not re.fullmatch(r"[A-Za-z]{3,}", name):
        raise _refused(key, f"{name!r} is no name of a property")
    try:
        signature, value = _variant(text)
    except (ValueError, SyntaxError) as exc:
        raise _refused(
            key, f"{text!r} is no value: write it as 5, uint64 5, true or 'text'"
        ) from exc
    if name.endswith("Sec") and signature in ("i", "t") and not name.endswith("USec"):
        return f"{name.removesuffix('Sec')}USec", ("t", value * _SECOND_US)
    return name, (signature, value)


def _variant(text: str) -> tuple[str, Any]:
    """GVariant's text form, as far as properties want it."""
    kind, _, rest = text.strip().partition(" ")
    if kind in _TYPES:
        return _TYPES[kind], int(rest)
    if text in ("true", "false"):
        return "b", text == "true"
    value = ast.literal_eval(text.strip())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "as", value
    if isinstance(value, str):
        return "s", value
    if isinstance(value, int):
        return "i", value
    raise ValueError(text)


def _refused(key: str, why: str) -> UnsupportedField:
    return UnsupportedField("config.json", [(f"annotations[{key!r}]", why)])
