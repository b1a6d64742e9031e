"""The config.json that `migrator spec` writes: a sound container to start from, as runc's is."""

from __future__ import annotations

from typing import Any

from runtime.cgroups import cgroup_version

OCI_VERSION = "1.2.1"

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

# Files that tell of the host, or let a process touch it.
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
# cgroup: what it shows as its own root is the same wherever it is. time: CLOCK_MONOTONIC goes on
# evenly when it moves to another host (time_namespaces(7)).
_MOVABLE_NAMESPACES = (*_NAMESPACES, "cgroup", "time")


def default_spec(*, movable: bool = False) -> dict[str, Any]:
    """A config.json for `sh` in the bundle's rootfs, with a terminal.

    movable: for a container that is to move to another host: without a terminal, whose other end
    would stay here, and with what is the same on every host in namespaces of its own.
    """
    kinds = _MOVABLE_NAMESPACES if movable else _namespaces()
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(terminal=not movable),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "migrator",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def for_user(spec: dict[str, Any], uid: int, gid: int) -> None:
    """Change *spec* to what user *uid* with group *gid* may make: its root is that user.

    The network is the host's, for an ordinary user has no other way out of one; where it is no
    namespace of the container's own, sysfs can only be bound. No limits: they would take cgroups.
    """
    linux = spec["linux"]
    del linux["resources"]
    kept = [each for each in linux["namespaces"] if each["type"] != "network"]
    linux["namespaces"] = [*kept, {"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    spec["mounts"] = [_for_user(mount) for mount in spec["mounts"]]


def _for_user(mount: dict[str, Any]) -> dict[str, Any]:
    if mount["type"] == "sysfs":
        return _mount(mount["destination"], "none", "rbind", *_SAFE, "ro", source="/sys")
    options = [each for each in mount.get("options", ()) if not each.startswith(("uid=", "gid="))]
    return mount | ({"options": options} if options else {})


def _namespaces() -> tuple[str, ...]:
    """On v2 a container is shown its own part of the one tree, as runc does it."""
    return (*_NAMESPACES, "cgroup") if cgroup_version() == "v2" else _NAMESPACES


def _process(*, terminal: bool) -> dict[str, Any]:
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm",
        ],
        "cwd": "/",
        "capabilities": {
            name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


_SAFE = ("nosuid", "noexec", "nodev")


def _mounts() -> list[dict[str, Any]]:
    return [
        _mount("/proc", "proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", *_SAFE, "mode=1777", "size=65536k", source="shm"),
        _mount("/dev/mqueue", "mqueue", *_SAFE),
        _mount("/sys", "sysfs", *_SAFE, "ro"),
        # Becomes what the host has: one mount on v2, one for each controller on v1.
        _mount("/sys/fs/cgroup", "cgroup", *_SAFE, "relatime", "ro"),
    ]


def _mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source or kind}
    return mount | ({"options": list(options)} if options else {})
