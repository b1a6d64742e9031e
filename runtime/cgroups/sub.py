"""Which cgroups a process that is added to a container comes into: its own, or some below them.

runc(8) "exec --cgroup". What is below is the container's to make, and may be gone at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from runtime.cgroups import tree
from runtime.cgroups.base import CgroupManager
from runtime.cgroups.detect import detect
from runtime.errors import CgroupError

#: v1: controller -> path below the container's cgroup; v2, or v1 for all of them: under ""
SubCgroups = Mapping[str, str]


def parse(texts: Iterable[str]) -> SubCgroups:
    """Read `PATH`, or any number of `CONTROLLER[,CONTROLLER]:PATH`; ValueError says what is not."""
    wanted: dict[str, str] = {}
    for text in (given := list(texts)):
        controllers, colon, path = text.rpartition(":")
        if not colon and len(given) > 1:
            raise ValueError(f"{text!r} has no CONTROLLER: before it, and is not the only one")
        for name in controllers.split(","):
            if colon and not name:
                raise ValueError(f"{text!r} has an empty CONTROLLER")
            if name in wanted:
                raise ValueError(f"controller {name} is given more than once")
            wanted[name] = path
    return wanted


def join(cgroup: CgroupManager, pid: int, wanted: SubCgroups, init_pid: int) -> None:
    """Move *pid* into *cgroup*, or into those below it that are *wanted*; raises CgroupError.

    On v2 a cgroup that has handed its controllers on takes no process any more: unless one is
    wanted, *pid* then goes where the container's init is (cgroups(7) "no internal processes").
    """
    directories = _below(cgroup, wanted)
    try:
        _move(directories, pid)
    except CgroupError:
        if wanted or "" not in cgroup.paths or (beside := v2_of(init_pid)) is None:
            raise
        _move([beside], pid)


def _below(cgroup: CgroupManager, wanted: SubCgroups) -> list[Path]:
    if wanted and not cgroup.paths:
        why = f"no process comes into {next(iter(wanted.values()))}: the container has no cgroup"
        raise CgroupError("of the container", why)
    for name in wanted:
        if name and name not in cgroup.paths:
            raise CgroupError(f"controller {name}", f"unknown controller {name}: not mounted here")
    paths = {
        name: _inside(path, wanted.get(name, wanted.get("", "")))
        for name, path in cgroup.paths.items()
    }
    return list(dict.fromkeys(paths.values()))


def _inside(directory: Path, below: str) -> Path:
    path = Path(os.path.normpath(f"{directory}/{below}"))
    if not path.is_relative_to(directory):
        raise CgroupError(directory, f"bad sub cgroup path: {below} leads out of it")
    return path


def _move(directories: Iterable[Path], pid: int) -> None:
    for directory in directories:
        try:
            tree.write(directory / tree.PROCESSES, str(pid))
        except CgroupError as exc:
            why = f"adding pid {pid} to cgroups: {exc.why}"
            raise CgroupError(directory, why) from exc


def v2_of(pid: int) -> Path | None:
    """The directory of its v2 cgroup; None where none is mounted, and of one that has ended."""
    root = detect().v2
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if root is None or own is None else root / own
