"""OCI bundles made of programs of this machine: the files that they load, and a config.json."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup", "time")

_LOADED = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_SYSTEM_LIBRARIES = ("/lib", "/usr/lib")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a container is to be made of.

    programs: path inside -> program here, brought with all libraries that it loads;
    files: path inside -> file or directory here, brought as it is.
    """

    arguments: Sequence[str]
    programs: Mapping[str, Path]
    files: Mapping[str, Path] = field(default_factory=dict)
    hostname: str = "container"

    def write(
        self, directory: Path, *, namespaces: Sequence[str] = NAMESPACES, network: str | None = None
    ) -> None:
        """Make the bundle in *directory*, which must not exist.

        network: path of a network namespace to join, in place of one of its own.
        """
        rootfs = directory / "rootfs"
        for name in ("proc", "sys", "dev", "tmp", "etc"):
            (rootfs / name).mkdir(parents=True)
        for inside, program in self.programs.items():
            _bring(program.resolve(), rootfs / inside.lstrip("/"))
            for library in _libraries(program):
                _bring(library, rootfs / _place_of(library).lstrip("/"))
        for inside, path in self.files.items():
            _bring(path, rootfs / inside.lstrip("/"))
        config = _config(self.arguments, self.hostname, namespaces, network)
        (directory / "config.json").write_text(json.dumps(config, indent=1))


def python_bundle(
    script: Path, *arguments: str, hostname: str, modules: Sequence[ModuleType] = ()
) -> Bundle:
    """One Python script and what it cannot do without: the interpreter and `encodings`, 7 MB.

    modules: further ones of the standard library, of one file each.
    """
    encodings = Path(sysconfig.get_path("stdlib"), "encodings")
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    sources = [encodings, *(Path(str(m.__file__)) for m in modules if hasattr(m, "__file__"))]
    return Bundle(
        arguments=["/usr/bin/python3", "-I", "-S", f"/{script.name}", *arguments],
        programs={"/usr/bin/python3": python},
        files={f"/{script.name}": script, **{str(path): path for path in sources}},
        hostname=hostname,
    )


def _libraries(program: Path) -> list[Path]:
    """Everything that the dynamic linker loads for *program* (ldd(1)), the linker itself too."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    return [Path(found) for found in _LOADED.findall(done.stdout)]


def _place_of(library: Path) -> str:
    """The system's libraries keep their place; a private prefix's go where $ORIGIN/../lib is."""
    here = str(library)
    return here if here.startswith(_SYSTEM_LIBRARIES) else f"/lib/{library.name}"


def _bring(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _config(
    arguments: Sequence[str], hostname: str, namespaces: Sequence[str], network: str | None
) -> dict[str, Any]:
    """An OCI runtime-spec config as container engines write it, small but whole."""
    own = [
        {"type": n, "path": network} if n == "network" and network else {"type": n}
        for n in namespaces
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(arguments),
            "env": ["PATH=/bin:/usr/bin", "HOME=/"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": hostname,
        "mounts": _MOUNTS,
        "linux": {
            "namespaces": own,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }


def _mount(kind: str, destination: str, *options: str, source: str = "") -> dict[str, Any]:
    return {
        "destination": destination,
        "type": kind,
        "source": source or kind,
        "options": list(options),
    }


_SAFE = ("nosuid", "noexec", "nodev")
_MOUNTS = [
    _mount("proc", "/proc", *_SAFE),
    _mount("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
    _mount("tmpfs", "/dev/shm", *_SAFE, "mode=1777", "size=65536k", source="shm"),
    _mount("mqueue", "/dev/mqueue", *_SAFE),
    _mount("sysfs", "/sys", *_SAFE, "ro"),
    _mount("cgroup", "/sys/fs/cgroup", *_SAFE, "relatime", "ro"),
]
