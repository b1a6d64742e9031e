"""cgroup v1: one directory for each controller, in as many hierarchies as are mounted.

Kernel documentation: admin-guide/cgroup-v1/{cgroups,cpusets,devices,freezer-subsystem}.rst.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cgroups import devices, tree
from runtime.cgroups.base import FREEZE_WITHIN_S, CgroupManager, kill
from runtime.cgroups.freezer import V1_FILE
from runtime.cgroups.resources import Setting, v1_settings
from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups.stats import CgroupStats

_POLL_S = 0.001
# After so many looks at FREEZING, thaw for a moment: see freeze.
_LOOKS_BEFORE_THAW = 50
_KILL_FREEZE_S = 0.5


class V1Manager(CgroupManager):
    """One container's cgroups on a v1 or hybrid host."""

    def _make(self) -> None:
        made: list[Path] = []
        try:
            for directory in self.directories:
                made += tree.make(directory, _inherit_cpuset)
        except BaseException:
            tree.remove_empty(reversed(made))
            raise

    def _settings(self, resources: Mapping[str, Any]) -> list[Setting]:
        return v1_settings(resources)

    def _controller(self, name: str) -> Path | None:
        return self.paths.get(name)

    def _set_devices(self, rules: list[devices.Rule]) -> None:
        directory = self.paths.get("devices")
        if directory is None:
            # Without it the container could open every device of the host by its number.
            raise CgroupError(
                "controller devices", "is not there, and a container needs it: mount it"
            )
        target = devices.v1_list(rules)
        current = devices.V1List.parse(tree.read(directory / "devices.list"))
        for name, line in devices.v1_transition(current, target):
            tree.write(directory / name, line)

    def stats(self) -> CgroupStats:
        from runtime.cgroups import stats_v1  # noqa: PLC0415 - lazy: for few commands

        if not self.exists():
            raise CgroupError(self._members(), "is not there: the container has been removed")
        return stats_v1.read(self.paths)

    @property
    def freezer_path(self) -> Path:
        if "freezer" not in self.paths:
            why = "is not there: mount it to pause, checkpoint or migrate containers"
            raise CgroupError("controller freezer", why)
        return self.paths["freezer"]

    def freeze(self, *, timeout_s: float = FREEZE_WITHIN_S) -> None:
        state = self.freezer_path / V1_FILE
        deadline = time.monotonic() + timeout_s
        looks = 0
        tree.write(state, "FROZEN")
        while tree.read(state) != "FROZEN":
            if time.monotonic() > deadline:
                self.thaw()
                why = f"still FREEZING after {timeout_s:g} s: a process waits in the kernel"
                raise CgroupError(self.freezer_path, why)
            looks += 1
            if looks % _LOOKS_BEFORE_THAW == 0:
                # A task that forks while its cgroup freezes can keep it FREEZING for ever; what
                # helps is to let all run for a moment and to freeze anew.
                tree.write(state, "THAWED")
            time.sleep(_POLL_S)
            # Writing it anew also makes the kernel look again at tasks that were not ready.
            tree.write(state, "FROZEN")

    def thaw(self) -> None:
        tree.write(self.freezer_path / V1_FILE, "THAWED")

    def _members(self) -> Path:
        return self.paths.get("freezer") or self.directories[0]

    def _kill(self, pids: list[int]) -> None:
        """Frozen, nothing can fork away from the list of pids; a frozen task dies when thawed."""
        if "freezer" not in self.paths:
            return kill(pids)
        # A task in uninterruptible sleep does not freeze; the others are killed all the same.
        with suppress(CgroupError):
            self.freeze(timeout_s=_KILL_FREEZE_S)
        kill(self.processes())
        return self.thaw()


def _inherit_cpuset(directory: Path) -> None:
    """Give a new cpuset its parent's CPUs and memory nodes: empty ones take no process.

    The parent may be as new, and its maker not yet as far.
    """
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        if file.exists() and not tree.read(file):
            _inherit_cpuset(directory.parent)
            tree.write(file, tree.read(directory.parent / name))
