"""A container without cgroups of its own: an ordinary user's, to whom no cgroup is delegated.

It stays in those of its caller. What needs a cgroup is refused: limits, pause, and to know all
processes of the container.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.cgroups.base import FREEZE_WITHIN_S, CgroupManager
from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups import devices
    from runtime.cgroups.resources import Setting
    from runtime.cgroups.stats import CgroupStats


class NoCgroups(CgroupManager):
    """What can be done without: nothing."""

    def __init__(self) -> None:
        super().__init__({})

    def create(self) -> None:
        """Nothing to make."""

    def frozen(self) -> bool:
        """Never."""
        return False

    def set(self, resources: Mapping[str, Any], *, with_devices: bool = True) -> None:
        """Refuse limits; what says nothing is carried out."""
        if limits := sorted(name for name in resources if name != "devices" and resources[name]):
            self._refuse(f"linux.resources.{limits[0]} cannot be set")

    def stats(self) -> CgroupStats:
        """Of what is counted nowhere, all is 0."""
        from runtime.cgroups.stats import CgroupStats  # noqa: PLC0415 - lazy: seldom needed

        return CgroupStats()

    @property
    def freezer_path(self) -> Path:
        self._refuse("it cannot be frozen")

    def freeze(self, *, timeout_s: float = FREEZE_WITHIN_S) -> None:
        self._refuse("it cannot be frozen")

    def thaw(self) -> None:
        self._refuse("it cannot be frozen")

    def processes(self) -> list[int]:
        self._refuse("its processes are not known")

    def _refuse(self, what: str) -> NoReturn:
        why = f"{what}: the container has none (rootless needs no limits + no cgrouppath when no "
        raise CgroupError("of the container", f"{why}permission is granted for cgroups)")

    def _make(self) -> None: ...

    def _settings(self, resources: Mapping[str, Any]) -> list[Setting]:
        self._refuse("it has no limits")

    def _controller(self, name: str) -> Path | None:
        return None

    def _set_devices(self, rules: list[devices.Rule]) -> None: ...

    def _members(self) -> Path:
        self._refuse("its processes are not known")

    def _kill(self, pids: list[int]) -> None: ...
