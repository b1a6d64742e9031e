"""cgroup v2: one directory in the unified hierarchy, its controllers handed down from the root.

Kernel documentation: admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.cgroups import bpf, devices, tree
from runtime.cgroups.base import FREEZE_WITHIN_S, CgroupManager, kill
from runtime.cgroups.freezer import V2_FILE, says_frozen
from runtime.cgroups.resources import Setting, v2_settings
from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups.stats import CgroupStats

logger = Logger(__name__)

_CONTROLLERS = "cgroup.controllers"
_SUBTREE = "cgroup.subtree_control"
_POLL_AT_MOST_S = 0.1


class V2Manager(CgroupManager):
    """One container's cgroup on a v2 host."""

    @property
    def _directory(self) -> Path:
        return self.paths[""]

    def _make(self) -> None:
        made = tree.make(self._directory, lambda _: None)
        try:
            for ancestor in reversed(_ancestors(self._directory)):
                hand_down(ancestor)
        except BaseException:
            tree.remove_empty(reversed(made))
            raise

    def _settings(self, resources: Mapping[str, Any]) -> list[Setting]:
        _check_before_update(self._directory, resources.get("memory", {}))
        return v2_settings(resources)

    def _controller(self, name: str) -> Path | None:
        available = tree.read(self._directory / _CONTROLLERS).split()
        # Files of the core have names as cgroup.max.depth.
        return self._directory if name in (*available, "cgroup") else None

    def _set_devices(self, rules: list[devices.Rule]) -> None:
        bpf.set_device_rules(self._directory, rules)

    def stats(self) -> CgroupStats:
        from runtime.cgroups import stats_v2  # noqa: PLC0415 - lazy: for few commands

        if not self.exists():
            raise CgroupError(self._members(), "is not there: the container has been removed")
        return stats_v2.read(self._directory)

    @property
    def freezer_path(self) -> Path:
        return self._directory

    def freeze(self, *, timeout_s: float = FREEZE_WITHIN_S) -> None:
        tree.write(self._directory / "cgroup.freeze", "1")
        if not self._becomes(frozen=True, timeout_s=timeout_s):
            self.thaw()
            why = f"not frozen after {timeout_s:g} s: a process waits in the kernel"
            raise CgroupError(self._directory, why)

    def thaw(self) -> None:
        tree.write(self._directory / "cgroup.freeze", "0")
        self._becomes(frozen=False, timeout_s=FREEZE_WITHIN_S)

    def _becomes(self, *, frozen: bool, timeout_s: float) -> bool:
        """Wait until cgroup.events says so; a change of the file wakes poll(2) with POLLPRI."""
        deadline = time.monotonic() + timeout_s
        events = self._directory / V2_FILE
        with tree.opened(events) as fd:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while says_frozen(tree.read(events)) != frozen:
                if (left_s := deadline - time.monotonic()) <= 0:
                    return False
                poll.poll(1000 * min(left_s, _POLL_AT_MOST_S))
            return True

    def _members(self) -> Path:
        return self._directory

    def _kill(self, pids: list[int]) -> None:
        if (self._directory / "cgroup.kill").exists():  # Linux 5.14
            tree.write(self._directory / "cgroup.kill", "1")
        else:
            kill(pids)


def _ancestors(directory: Path) -> list[Path]:
    """The cgroups above *directory* that we can see, innermost first."""
    above = []
    for parent in directory.parents:
        if not (parent / _CONTROLLERS).exists():
            break
        above.append(parent)
    return above


def hand_down(directory: Path) -> None:
    """Enable all controllers of *directory* for the cgroups below it.

    One that cannot be enabled is left: whoever asks for its limits is told so.
    """
    enabled = tree.read(directory / _SUBTREE).split()
    for controller in tree.read(directory / _CONTROLLERS).split():
        if controller not in enabled:
            try:
                tree.write(directory / _SUBTREE, f"+{controller}")
            except CgroupError as exc:
                logger.debug("controller %s is not handed down: %s", controller, exc)


def _check_before_update(directory: Path, memory: Mapping[str, Any]) -> None:
    """Reject a limit below the usage when asked to, as v1 does: v2 would accept it and kill."""
    if not memory.get("checkBeforeUpdate"):
        return
    used = int(tree.read_some(directory / "memory.current") or 0)
    swapped = int(tree.read_some(directory / "memory.swap.current") or 0)
    for name, limit, usage in (
        ("memory+swap", memory.get("swap", 0), used + swapped),
        ("memory", memory.get("limit", 0), used),
    ):
        if 0 < limit < usage:
            why = f"rejecting {name} limit {limit}: it is below the usage, {usage}"
            raise CgroupError(directory / "memory.max", why)
