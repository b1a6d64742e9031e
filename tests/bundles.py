"""OCI bundles for tests: a rootfs of one static busybox, and the smallest whole config.json."""

import copy
import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.probes import program

DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")
CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

Spec = dict[str, Any]


def mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def spec(*args: str) -> Spec:
    """A spec that runs *args* as root in namespaces of its own, as `runc spec` would write it."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/bin", "TERM=linux"],
            "cwd": "/",
            "capabilities": {
                name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")
            },
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "mig-test",
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                "/dev/pts",
                "devpts",
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ),
            mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


@dataclass(frozen=True)
class Bundle:
    """A directory with config.json and rootfs, as a runtime takes it."""

    path: Path

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def spec(self) -> Spec:
        loaded: Spec = json.loads((self.path / "config.json").read_text())
        return loaded

    def write(self, spec: Spec) -> None:
        (self.path / "config.json").write_text(json.dumps(spec, indent=2))

    def update(self, **sections: Any) -> None:
        """Merge *sections* into config.json: objects key by key, all else replaced."""
        self.write(merged(self.spec, sections))


def merged(old: Spec, new: Spec) -> Spec:
    result = copy.deepcopy(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def make(path: Path, *args: str) -> Bundle:
    """A bundle at *path* that runs *args* (by default: sleeps until it is killed)."""
    bundle = Bundle(path)
    make_rootfs(bundle.rootfs)
    bundle.write(spec(*args or ("sleep", "inf")))
    return bundle


@cache
def applets(busybox: str) -> tuple[str, ...]:
    """The names that *busybox* answers to."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split() if name != "busybox")


def make_rootfs(path: Path) -> None:
    busybox = program("busybox")
    assert busybox, "a test that makes a bundle is marked needs_busybox"
    for name in DIRECTORIES:
        (path / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, path / "bin/busybox")
    for applet in applets(busybox):
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
