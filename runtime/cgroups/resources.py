"""Translate linux.resources of the OCI runtime-spec into control files: pure, for v1 and for v2.

Values arrive checked (runtime/spec/fields.py). A 0 is a limit that is not given, as every runtime
has it: callers fill in zeroes, and few limits of 0 are of use. -1 takes a limit away.
OCI runtime-spec config-linux.md "Control groups"; kernel cgroup-v1/*.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from runtime.errors import UnsupportedField

_THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


class Setting(NamedTuple):
    """One value for one control file."""

    controller: str
    #: file name and value; the first file that is there is written
    writes: tuple[tuple[str, str], ...]
    #: the field of linux.resources that asks for it
    field: str
    #: whether a kernel without any of the files is no fault
    optional: bool = False


def _one(controller: str, name: str, value: object, field: str) -> Setting:
    return Setting(controller, ((name, str(value)),), field)


def v1_settings(resources: Mapping[str, Any]) -> list[Setting]:
    """What *resources* ask of cgroup v1, device rules apart, in the order to write it.

    Raises UnsupportedField for what only v2 has.
    """
    if resources.get("unified"):
        raise _refused("unified", "invalid configuration: cgroup v1 has no unified hierarchy")
    return [
        *_v1_memory(resources.get("memory", {})),
        *_v1_cpu(resources.get("cpu", {})),
        *_cpuset(resources.get("cpu", {})),
        *_pids(resources.get("pids", {})),
        *_v1_block_io(resources.get("blockIO", {})),
        *_hugetlb(resources, "limit_in_bytes"),
        *_v1_network(resources.get("network", {})),
        *_rdma(resources.get("rdma", {})),
    ]


def v2_settings(resources: Mapping[str, Any]) -> list[Setting]:
    """What *resources* ask of cgroup v2, device rules apart, in the order to write it.

    Raises UnsupportedField for what only v1 has.
    """
    return [
        *_v2_memory(resources.get("memory", {})),
        *_v2_cpu(resources.get("cpu", {})),
        *_cpuset(resources.get("cpu", {})),
        *_pids(resources.get("pids", {})),
        *_v2_block_io(resources.get("blockIO", {})),
        *_hugetlb(resources, "max"),
        *_v2_network(resources.get("network", {})),
        *_rdma(resources.get("rdma", {})),
        *_unified(resources.get("unified", {})),
    ]


def v2_weight_of_shares(shares: int) -> int:
    """cpu.weight for cpu.shares: 2, 1024 and 262144 become 1, 100 and 10000.

    The exponent of ten is the quadratic function of log2(shares) that goes through these three
    points: both smallest values, both defaults, both largest values.
    """
    log = math.log2(min(max(shares, 2), 262144))
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def v2_weight_of_block_io(weight: int) -> int:
    """io.weight (1 to 10000) for blkio.weight (10 to 1000), linearly."""
    return 1 + (weight - 10) * 9999 // 990


def _v1_memory(memory: Mapping[str, Any]) -> Iterator[Setting]:
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit:
        yield _one("memory", "memory.limit_in_bytes", limit, "memory.limit")
    if swap or limit == -1:
        # Without a limit of its own, memory+swap must not stay below a memory limit that went.
        write = ("memory.memsw.limit_in_bytes", str(swap or -1))
        yield Setting("memory", (write,), "memory.swap", optional=not swap)
    if value := memory.get("reservation"):
        yield _one("memory", "memory.soft_limit_in_bytes", value, "memory.reservation")
    if value := memory.get("kernelTCP"):
        yield _one("memory", "memory.kmem.tcp.limit_in_bytes", value, "memory.kernelTCP")
    if "swappiness" in memory:
        yield _one("memory", "memory.swappiness", memory["swappiness"], "memory.swappiness")
    if "disableOOMKiller" in memory:
        disable = int(memory["disableOOMKiller"])
        yield _one("memory", "memory.oom_control", disable, "memory.disableOOMKiller")


def _v2_memory(memory: Mapping[str, Any]) -> Iterator[Setting]:
    for name in ("kernelTCP", "swappiness", "disableOOMKiller"):
        if memory.get(name) not in (None, 0, -1, False):
            raise _refused(f"memory.{name}", "cgroup v2 has no such control")
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit:
        yield _one("memory", "memory.max", _or_max(limit), "memory.limit")
    if swap > 0:
        # The specification counts memory and swap together, v2 counts swap alone. A kernel without
        # swap keeps to none.
        write = ("memory.swap.max", str(swap - limit))
        yield Setting("memory", (write,), "memory.swap", optional=swap == limit)
    elif swap or limit == -1:
        yield Setting("memory", (("memory.swap.max", "max"),), "memory.swap", optional=True)
    if value := memory.get("reservation"):
        yield _one("memory", "memory.low", _or_max(value), "memory.reservation")


def _v1_cpu(cpu: Mapping[str, Any]) -> Iterator[Setting]:
    # An idle cgroup takes no shares, and needs none.
    if cpu.get("shares") and not cpu.get("idle"):
        yield _one("cpu", "cpu.shares", cpu["shares"], "cpu.shares")
    for field, name in (
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
    ):
        if value := cpu.get(field):
            yield _one("cpu", name, value, f"cpu.{field}")
    for field, name in (("burst", "cpu.cfs_burst_us"), ("idle", "cpu.idle")):
        if field in cpu:
            yield _one("cpu", name, cpu[field], f"cpu.{field}")


def _v2_cpu(cpu: Mapping[str, Any]) -> Iterator[Setting]:
    for name in ("realtimePeriod", "realtimeRuntime"):
        if cpu.get(name):
            raise _refused(f"cpu.{name}", "cgroup v2 has no such control")
    if "idle" in cpu:
        yield _one("cpu", "cpu.idle", cpu["idle"], "cpu.idle")
    # An idle cgroup takes no weight, and needs none.
    if cpu.get("shares") and not cpu.get("idle"):
        yield _one("cpu", "cpu.weight", v2_weight_of_shares(cpu["shares"]), "cpu.shares")
    quota, period = cpu.get("quota", 0), cpu.get("period", 0)
    if quota or period:
        value = f"{_or_max(quota or -1)} {period or ''}".rstrip()
        yield _one("cpu", "cpu.max", value, "cpu.quota" if quota else "cpu.period")
    if "burst" in cpu:
        yield _one("cpu", "cpu.max.burst", cpu["burst"], "cpu.burst")


def _cpuset(cpu: Mapping[str, Any]) -> Iterator[Setting]:
    for field in ("cpus", "mems"):
        if value := cpu.get(field):
            yield _one("cpuset", f"cpuset.{field}", value, f"cpu.{field}")


def _pids(pids: Mapping[str, Any]) -> Iterator[Setting]:
    # Here 0 is a limit, says the specification since 1.3: no further process. As 1 is, where there
    # is one already; and systemd knows no 0.
    if (limit := pids.get("limit")) is not None:
        yield _one("pids", "pids.max", _or_max(limit or 1), "pids.limit")


def _v1_block_io(block_io: Mapping[str, Any]) -> Iterator[Setting]:
    if weight := block_io.get("weight"):
        yield _v1_weight("weight", str(weight), "blockIO.weight")
    if weight := block_io.get("leafWeight"):
        yield _one("blkio", "blkio.leaf_weight", weight, "blockIO.leafWeight")
    for device in block_io.get("weightDevice", ()):
        number = f"{device['major']}:{device['minor']}"
        if weight := device.get("weight"):
            yield _v1_weight("weight_device", f"{number} {weight}", "blockIO.weightDevice")
        if weight := device.get("leafWeight"):
            value = f"{number} {weight}"
            yield _one("blkio", "blkio.leaf_weight_device", value, "blockIO.weightDevice")
    for field, (name, _) in _THROTTLES.items():
        for device in block_io.get(field, ()):
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            yield _one("blkio", name, value, f"blockIO.{field}")


def _v1_weight(name: str, value: str, field: str) -> Setting:
    return Setting("blkio", ((f"blkio.bfq.{name}", value), (f"blkio.{name}", value)), field)


def _v2_block_io(block_io: Mapping[str, Any]) -> Iterator[Setting]:
    if block_io.get("leafWeight") or any(
        device.get("leafWeight") for device in block_io.get("weightDevice", ())
    ):
        raise _refused("blockIO.leafWeight", "cgroup v2 has no such control")
    if weight := block_io.get("weight"):
        yield _v2_weight("", weight, "blockIO.weight")
    for device in block_io.get("weightDevice", ()):
        if weight := device.get("weight"):
            number = f"{device['major']}:{device['minor']} "
            yield _v2_weight(number, weight, "blockIO.weightDevice")
    for field, (_, key) in _THROTTLES.items():
        for device in block_io.get(field, ()):
            # 0 takes a limit away on v1; v2 wants it said in words.
            rate = device["rate"] or "max"
            value = f"{device['major']}:{device['minor']} {key}={rate}"
            yield _one("io", "io.max", value, f"blockIO.{field}")


def _v2_weight(device: str, weight: int, field: str) -> Setting:
    scaled = v2_weight_of_block_io(weight)
    return Setting(
        "io", (("io.bfq.weight", f"{device}{weight}"), ("io.weight", f"{device}{scaled}")), field
    )


def _hugetlb(resources: Mapping[str, Any], suffix: str) -> Iterator[Setting]:
    """Limits of usage, and of reservations where the kernel has them (Linux 5.7).

    Over the first a process dies of SIGBUS; over the second it is told when it maps.
    """
    for each in resources.get("hugepageLimits", ()):
        name, limit = f"hugetlb.{each['pageSize']}", str(each["limit"])
        yield _one("hugetlb", f"{name}.{suffix}", limit, "hugepageLimits")
        write = (f"{name}.rsvd.{suffix}", limit)
        yield Setting("hugetlb", (write,), "hugepageLimits", optional=True)


def _v1_network(network: Mapping[str, Any]) -> Iterator[Setting]:
    if class_id := network.get("classID"):
        yield _one("net_cls", "net_cls.classid", class_id, "network.classID")
    for each in network.get("priorities", ()):
        value = f"{each['name']} {each['priority']}"
        yield _one("net_prio", "net_prio.ifpriomap", value, "network.priorities")


def _v2_network(network: Mapping[str, Any]) -> Iterator[Setting]:
    for name in ("classID", "priorities"):
        if network.get(name):
            raise _refused(f"network.{name}", "cgroup v2 has no such control")
    yield from ()


def _rdma(rdma: Mapping[str, Any]) -> Iterator[Setting]:
    for device, limits in rdma.items():
        pairs = (("hca_handle", limits.get("hcaHandles")), ("hca_object", limits.get("hcaObjects")))
        words = [f"{key}={value}" for key, value in pairs if value is not None]
        yield _one("rdma", "rdma.max", " ".join([device, *words]), "rdma")


def _unified(unified: Mapping[str, str]) -> Iterator[Setting]:
    for name, value in unified.items():
        if name == "cpu.weight" and is_idle(unified):
            continue  # as with shares
        # A write is read up to its first device, one to a line.
        for line in value.splitlines():
            yield _one(name.partition(".")[0], name, line, f"unified[{name!r}]")


def is_idle(unified: Mapping[str, str]) -> bool:
    """Whether the files of linux.resources.unified make a cgroup idle."""
    return unified.get("cpu.idle", "").strip() == "1"


def _or_max(value: int) -> int | str:
    return value if value >= 0 else "max"


def _refused(field: str, why: str) -> UnsupportedField:
    return UnsupportedField("config.json", [(f"linux.resources.{field}", why)])
