"""What one container's cgroups can be asked to do, whatever the version of the host."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cgroups import devices, tree
from runtime.cgroups.former import former_value
from runtime.cgroups.freezer import is_frozen
from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups.resources import Setting
    from runtime.cgroups.stats import CgroupStats
    from runtime.undo import Undo

FREEZE_WITHIN_S = 10.0
KILL_WITHIN_S = 10.0
REMOVE_WITHIN_S = 2.0


class CgroupManager(ABC):
    """The cgroups of one container: made by `create`, removed by `destroy`.

    Every method raises CgroupError, which names the file.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        #: v1: controller -> directory; v2: the one directory, under ""
        self.paths = dict(paths)

    @property
    def directories(self) -> list[Path]:
        """The directories of `paths`, each once: controllers may be mounted together."""
        return list(dict.fromkeys(self.paths.values()))

    def exists(self) -> bool:
        """Whether any of the cgroups is there."""
        return any(directory.is_dir() for directory in self.directories)

    def create(self) -> None:
        """Make the cgroups, or use those that are there when they are empty and not frozen.

        Once it has returned, what is in them is ours to kill and to remove; before, it may be
        another's. On failure nothing that it made is left.
        """
        remedy = "choose another linux.cgroupsPath"
        if pids := self.processes():
            why = f"container's cgroup is not empty: processes {pids} are in it, {remedy}"
            raise CgroupError(self._members(), why)
        if self.frozen():
            why = f"container's cgroup unexpectedly frozen: thaw it, or {remedy}"
            raise CgroupError(self._members(), why)
        self._make()

    def join(self, pid: int) -> None:
        """Move the process *pid* into the cgroups, which are there."""
        for directory in self.directories:
            tree.write(directory / tree.PROCESSES, str(pid))

    @abstractmethod
    def _make(self) -> None:
        """Make what is missing of the directories; on failure remove what was made."""

    def set(self, resources: Mapping[str, Any], *, with_devices: bool = True) -> None:
        """Carry out *resources*, a checked linux.resources; may be called again with other values.

        A controller that they do not speak of keeps its values, but for devices: they are always
        set, and without rules all but the default devices are denied, but for *with_devices* false:
        the host's root alone may, and in a user namespace the kernel denies them.
        Raises UnsupportedField for what this version of cgroups cannot do.
        """
        tree.write_all(self._settings(resources), self._controller)
        if with_devices:
            self._set_devices(devices.rules(resources))

    def update(self, resources: Mapping[str, Any], names: Iterable[str], undo: Undo) -> None:
        """Carry out those *names* of *resources* for processes that run; devices stay.

        *undo* is told how to take back each write. Raises as `set` does.
        """

        def write(path: Path, value: str) -> None:
            former = former_value(path.name, tree.read(path), value)
            tree.write(path, value)
            undo.on_error(tree.write, path, former)

        touched = {name: resources[name] for name in names}
        tree.write_all(self._settings(touched), self._controller, write)

    @abstractmethod
    def _settings(self, resources: Mapping[str, Any]) -> list[Setting]:
        """What *resources* come to, devices apart; raises for what cannot or must not be set."""

    @abstractmethod
    def _controller(self, name: str) -> Path | None:
        """Where the files of a controller are, None where it is not to be had."""

    @abstractmethod
    def _set_devices(self, rules: list[devices.Rule]) -> None:
        """Allow and deny devices."""

    @abstractmethod
    def stats(self) -> CgroupStats:
        """What the kernel has counted of the container; CgroupError when its cgroups are gone."""

    @property
    @abstractmethod
    def freezer_path(self) -> Path:
        """The directory through which the container is frozen; CRIU takes it as freeze_cgroup."""

    @abstractmethod
    def freeze(self, *, timeout_s: float = FREEZE_WITHIN_S) -> None:
        """Stop every process of the container, and return when all have stopped.

        After *timeout_s* they are thawed again and CgroupError is raised.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Let the processes go on; nothing happens when they were not frozen."""

    def frozen(self) -> bool:
        """Whether the container is frozen, or about to be."""
        return is_frozen({name: str(path) for name, path in self.paths.items()})

    def processes(self) -> list[int]:
        """The pids in the container, cgroups made inside it included."""
        return tree.processes(self._members())

    @abstractmethod
    def _members(self) -> Path:
        """The directory whose list of processes counts."""

    def kill_all(self, *, timeout_s: float = KILL_WITHIN_S) -> None:
        """End every process of the container by SIGKILL, and return when none is left.

        Raises CgroupError when one is left after *timeout_s*; a process in uninterruptible sleep
        then dies as soon as it wakes.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.001
        while pids := self.processes():
            if time.monotonic() > deadline:
                why = f"processes {pids} do not end: they may wait for a device or a file server"
                raise CgroupError(self._members(), why)
            self._kill(pids)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)

    @abstractmethod
    def _kill(self, pids: list[int]) -> None:
        """Send SIGKILL to the container, of which *pids* have just been seen."""

    def end(self) -> None:
        """Kill what is left in the cgroups, and `destroy` them."""
        if self.exists():
            self.kill_all()
        self.destroy()

    def destroy(self) -> None:
        """Remove the cgroups, and our common parent with the last of them; none may have a process.

        What is not there is no fault. On failure the rest is removed all the same.
        """
        errors = []
        deadline = time.monotonic() + REMOVE_WITHIN_S
        for directory in self.directories:
            try:
                tree.remove(directory, deadline)
            except CgroupError as exc:
                errors.append(exc)
        if errors:
            raise errors[0]


def kill(pids: list[int]) -> None:
    """Send SIGKILL to each of *pids*; one that is gone is no fault."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
