"""Cgroups of a lab: one subtree a node on every mounted hierarchy, v1 and v2 (cgroups(7)).

A node's processes live in the leaf `lab` of its subtree, so that the subtree itself, which they see
as the root, may hand its controllers on to containers (v2: no processes in inner cgroups).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from migrator.lab.errors import LabError
from runtime.rootfs import mountinfo

LEAF = "lab"
_REMOVE_WITHIN_S = 5.0
_REALTIME_US = 300_000


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted cgroup file system."""

    mount_point: Path
    unified: bool


def hierarchies() -> list[Hierarchy]:
    """Every cgroup hierarchy as this process sees it (proc_pid_mountinfo(5))."""
    return [
        Hierarchy(Path(info.point), info.fstype == "cgroup2")
        for info in mountinfo.of_thread("cgroup", "cgroup2")
    ]


def create(cgroup: str) -> None:
    """Make *cgroup* with its leaf on every hierarchy; what is there already is taken as it is."""
    for hierarchy in hierarchies():
        path = hierarchy.mount_point
        for part in (*cgroup.split("/"), LEAF):
            if hierarchy.unified and part != LEAF:
                _hand_on_controllers(path)
            path = path / part
            path.mkdir(exist_ok=True)
            _copy_cpuset(path)


def allow_realtime(cgroup: str) -> None:
    """Let processes of *cgroup*'s leaf take real-time priority, for a part of each second.

    With CONFIG_RT_GROUP_SCHED a v1 cgroup begins with none. Where the machine has given all of it
    away already, the leaf goes without.
    """
    for hierarchy in hierarchies():
        directory = hierarchy.mount_point
        for part in (*cgroup.split("/"), LEAF):
            directory = directory / part
            with suppress(OSError):
                (directory / "cpu.rt_runtime_us").write_text(str(_REALTIME_US))


def exists(cgroup: str) -> bool:
    """Whether *cgroup* is there on any hierarchy."""
    return any((h.mount_point / cgroup).is_dir() for h in hierarchies())


def procs_files(cgroup: str, below: str = "") -> list[Path]:
    """What a process writes its id to, to join *cgroup* (or its child *below*) everywhere."""
    return [h.mount_point / cgroup / below / "cgroup.procs" for h in hierarchies()]


def move_to_leaf(cgroup: str) -> None:
    """Move what is in *cgroup* itself to its leaf, on every hierarchy."""
    for source, leaf in zip(procs_files(cgroup), procs_files(cgroup, LEAF), strict=True):
        for pid in source.read_text().split():
            leaf.write_text(pid)


def kill_all(cgroup: str) -> None:
    """End every process in the subtree *cgroup* of any hierarchy, frozen ones as well."""
    deadline = time.monotonic() + _REMOVE_WITHIN_S
    while pids := _processes(cgroup):
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(pids)} of cgroup {cgroup} do not end, even killed")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _thaw(cgroup)
        time.sleep(0.01)


def remove(cgroup: str) -> None:
    """Remove the subtree *cgroup* from every hierarchy; it must hold no process any more.

    A cgroup stays busy for a moment after its last process has gone (rmdir gives EBUSY).
    """
    deadline = time.monotonic() + _REMOVE_WITHIN_S
    for directory in list(_subtree(cgroup)):
        while True:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"cannot remove cgroup {directory}: {error.strerror}") from error
                time.sleep(0.01)
                continue
            break


def _subtree(cgroup: str) -> Iterator[Path]:
    """Every directory of the subtree, the innermost first."""
    for hierarchy in hierarchies():
        for path, _, _ in os.walk(hierarchy.mount_point / cgroup, topdown=False):
            yield Path(path)


def _processes(cgroup: str) -> set[int]:
    pids: set[int] = set()
    for directory in _subtree(cgroup):
        with suppress(OSError):
            pids.update(map(int, (directory / "cgroup.procs").read_text().split()))
    return pids


def _thaw(cgroup: str) -> None:
    """A process in a frozen v1 cgroup does not die of SIGKILL until it is thawed."""
    for directory in _subtree(cgroup):
        with suppress(OSError):
            (directory / "freezer.state").write_text("THAWED")


def _hand_on_controllers(directory: Path) -> None:
    """Let the children have every controller that can be handed on.

    Not so where processes are in the way, as in a machine that is itself a container: the hosts'
    containers then lack that limit. Freezing needs no controller.
    """
    for controller in (directory / "cgroup.controllers").read_text().split():
        with suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(directory: Path) -> None:
    """A v1 cpuset begins empty and takes no process until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        if file.exists() and not (directory / "cgroup.controllers").exists():
            file.write_text((directory.parent / name).read_text())
