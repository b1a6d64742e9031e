"""The rules of the OCI runtime-spec that join several fields; each field by itself is sound here.

Every function notes all faults that it finds, none raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from runtime import scheduling, sysctl
from runtime.rootfs.mount_options import parse_options
from runtime.seccomp.words import NOTIFY, WAIT_KILLABLE_RECV, WITH_ERRNO, listens
from runtime.spec.model import Device, Linux, Mount, Process, Spec
from runtime.spec.schema import Faults, child

_MAX_WINDOW = 2**16 - 1  # struct winsize, ioctl_tty(2)


def spec(value: Spec, faults: Faults) -> None:
    """Check what joins fields of a whole config.json."""
    if not value.oci_version.startswith("1."):
        faults.unsupported("ociVersion", f"expected a version 1, found {value.oci_version}")
    process(value.process, faults, "process")
    _uts_names(value, faults)
    for index, mount in enumerate(value.mounts):
        _mount(mount, f"mounts[{index}]", faults)
    _linux(value.linux, faults)


def process(value: Process, faults: Faults, path: str = "") -> None:
    """Check the process of a config.json or of a process.json."""
    scheduling.check_process(value, faults, path)
    limits = child(path, "rlimits")
    for name in _repeated(limit.type for limit in value.rlimits):
        faults.wrong(limits, f"has {name} more than once")
    for index, limit in enumerate(value.rlimits):
        if limit.soft > limit.hard:
            faults.wrong(
                f"{limits}[{index}].soft",
                f"{limit.type}: {limit.soft} is above the hard limit {limit.hard}",
            )
    # Without a terminal it must be ignored, says the specification.
    if value.terminal:
        for name, length in value.console_size._asdict().items():
            if length > _MAX_WINDOW:
                where = child(child(path, "consoleSize"), name)
                faults.wrong(where, f"{length} is more than a terminal can have, {_MAX_WINDOW}")


def resources(value: Mapping[str, Any], faults: Faults, path: str = "") -> None:
    """Check a linux.resources object."""
    _memory(value.get("memory", {}), child(path, "memory"), faults)
    cpu = value.get("cpu", {})
    if 0 < cpu.get("quota", 0) < cpu.get("burst", 0):
        faults.wrong(child(child(path, "cpu"), "burst"), f"is above the quota {cpu['quota']}")
    for index, device in enumerate(value.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in device and "leafWeight" not in device:
            where = f"{child(path, 'blockIO')}.weightDevice[{index}]"
            faults.wrong(where, "needs weight or leafWeight")
    for name, limits in value.get("rdma", {}).items():
        if not limits:
            faults.wrong(child(child(path, "rdma"), name), "needs hcaHandles or hcaObjects")
    for name in value.get("unified", {}):
        if "/" in name or "." not in name.strip("."):
            faults.wrong(child(child(path, "unified"), name), "is not the name of a cgroup file")


def _memory(memory: Mapping[str, Any], path: str, faults: Faults) -> None:
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if swap > 0 and limit <= 0:
        faults.wrong(child(path, "swap"), "needs a memory limit beside it")
    elif 0 < swap < limit:
        why = f"counts memory and swap together, and is below the memory limit {limit}"
        faults.wrong(child(path, "swap"), why)


def _uts_names(value: Spec, faults: Faults) -> None:
    for name in ("hostname", "domainname"):
        if getattr(value, name) and not value.linux.namespace("uts"):
            faults.wrong(name, "would change the host's: the container has no uts namespace")


def _mount(mount: Mount, path: str, faults: Faults) -> None:
    try:
        parse_options(mount.options)
    except ValueError as exc:
        faults.unsupported(f"{path}.options", str(exc))


def _linux(linux: Linux, faults: Faults) -> None:
    _namespaces(linux, faults)
    present = frozenset(namespace.type for namespace in linux.namespaces)
    for name in linux.sysctl:
        if why := sysctl.fault(name, present):
            faults.wrong(child("linux.sysctl", name), why)
    for path in _repeated(device.path for device in linux.devices):
        faults.wrong("linux.devices", f"has {path} more than once")
    for index, device in enumerate(linux.devices):
        _device(device, f"linux.devices[{index}]", faults)
    _cgroups_path(linux.cgroups_path, faults)
    resources(linux.resources, faults, "linux.resources")
    if linux.seccomp:
        _seccomp(linux.seccomp, faults, "linux.seccomp")
    scheduling.check_memory_policy(linux.memory_policy, faults, "linux.memoryPolicy")
    _net_devices(linux, faults)


def _namespaces(linux: Linux, faults: Faults) -> None:
    # The same one twice is the same one.
    for kind in _repeated(namespace.type for namespace in dict.fromkeys(linux.namespaces)):
        faults.wrong("linux.namespaces", f"has type {kind} more than once")
    _user_namespace(linux, faults)
    mount, time = linux.namespace("mount"), linux.namespace("time")
    if not mount:
        for name, paths in (("masked", linux.masked_paths), ("readonly", linux.readonly_paths)):
            if paths:
                faults.wrong(f"linux.{name}Paths", "needs a mount namespace: they are the host's")
    if linux.time_offsets and (not time or time.path):
        faults.wrong("linux.timeOffsets", "needs a time namespace without path")


def _user_namespace(linux: Linux, faults: Faults) -> None:
    user = linux.namespace("user")
    for name, mappings in (("uid", linux.uid_mappings), ("gid", linux.gid_mappings)):
        where = f"linux.{name}Mappings"
        if user is None and mappings:
            faults.wrong(where, "the container has no user namespace")
        elif user is not None and not user.path and not mappings:
            faults.wrong(where, "missing, and required by a new user namespace")


def _net_devices(linux: Linux, faults: Faults) -> None:
    if linux.net_devices and not linux.namespace("network"):
        faults.wrong("linux.netDevices", "needs a network namespace: the container has the host's")
    inside = (device.get("name") or name for name, device in linux.net_devices.items())
    for name in _repeated(inside):
        faults.wrong("linux.netDevices", f"would name more than one {name} in the container")


def _device(device: Device, path: str, faults: Faults) -> None:
    if device.type != "p":
        for name in ("major", "minor"):
            if getattr(device, name) < 0:
                faults.wrong(f"{path}.{name}", f"missing, and required for type {device.type}")


def _cgroups_path(value: str, faults: Faults) -> None:
    parts = [part for part in value.split("/") if part]
    if any(part in (".", "..") for part in parts) or (value and not parts):
        faults.wrong("linux.cgroupsPath", "must lead to a cgroup below the root, without '..'")


def _seccomp(seccomp: Mapping[str, Any], faults: Faults, path: str) -> None:
    _errno_of(seccomp["defaultAction"], seccomp, "defaultErrnoRet", path, faults)
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        where = f"{path}.syscalls[{index}]"
        _errno_of(rule["action"], rule, "errnoRet", where, faults)
        if rule["action"] == NOTIFY and "write" in rule["names"]:
            # Not so here, but a container is to run under either runtime or none.
            faults.wrong(f"{where}.names", f"{NOTIFY} cannot be used for the write syscall")
    if listens(seccomp) and "listenerPath" not in seccomp:
        faults.wrong(child(path, "listenerPath"), f"missing, and required by {NOTIFY}")
    if "listenerMetadata" in seccomp and "listenerPath" not in seccomp:
        faults.wrong(child(path, "listenerMetadata"), "is for a listenerPath, which is missing")
    if WAIT_KILLABLE_RECV in seccomp.get("flags", ()) and not listens(seccomp):
        faults.wrong(child(path, "flags"), f"{WAIT_KILLABLE_RECV} needs an action {NOTIFY}")


def _errno_of(action: str, holder: Mapping[str, Any], name: str, path: str, faults: Faults) -> None:
    if name in holder and action not in WITH_ERRNO:
        faults.wrong(child(path, name), f"{action} returns no errno: take it out")


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]
