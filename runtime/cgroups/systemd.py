"""Containers as units of systemd: it makes their cgroup, and knows their limits.

A scope comes with its first process, so none is made before `join`; systemd removes it with its
last one. All else is done in the files, as without systemd: it lends us the subtree (Delegate).
systemd's CGROUP_DELEGATION.md, "three different tree setups".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.cgroups import tree
from runtime.cgroups.base import CgroupManager
from runtime.cgroups.unit_properties import (
    Property,
    of_annotations,
    properties,
    with_quota_of_systemd,
)
from runtime.cgroups.units import Unit
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager
from runtime.errors import CgroupError

if TYPE_CHECKING:
    from runtime.cgroups.systemd_bus import Bus
    from runtime.undo import Undo

logger = Logger(__name__)

_V1_HIERARCHY = "name=systemd"


class _UnitManager(CgroupManager):
    """What both versions share; mixed in before the manager of one."""

    #: cgroup v2
    unified: bool

    def __init__(self, paths: Mapping[str, Path], annotations: Mapping[str, str]) -> None:
        super().__init__(paths)
        self._directory_of_unit = paths["" if self.unified else _V1_HIERARCHY]
        self.unit = Unit.of_path(str(self._directory_of_unit))
        self._wished = of_annotations(annotations)

    def _make(self) -> None:
        """Nothing yet, and nothing of another's: a slice that is there would be stopped with us.

        A scope lives no longer than its processes, so one without is none's.
        """
        if self.unit.is_slice and self._directory_of_unit.is_dir():
            why = "there is such a slice already: choose another linux.cgroupsPath"
            raise CgroupError(self.unit.name, why)

    @abstractmethod
    def _fill(self) -> None:
        """Make what systemd does not."""

    def join(self, pid: int) -> None:
        """Move *pid* in; the first one starts the unit."""
        if not tree.processes(self._directory_of_unit):
            with _bus(self.unit) as bus:
                bus.start([*self._described(pid), *self._wished])
            self._fill()
        super().join(pid)

    def _described(self, pid: int) -> list[Property]:
        accounted = ("Memory", "CPU", "Tasks", "IO" if self.unified else "BlockIO")
        described: list[Property] = [
            ("Description", ("s", f"migrator container {self.unit.name}")),
            ("DefaultDependencies", ("b", False)),
            *((f"{name}Accounting", ("b", True)) for name in accounted),
        ]
        if self.unit.is_slice:
            return [*described, ("Wants", ("as", [self.unit.parent]))]
        scope = (("Slice", ("s", self.unit.parent)), ("Delegate", ("b", True)))
        return [*described, *scope, ("PIDs", ("au", [pid]))]

    def set(self, resources: Mapping[str, Any], *, with_devices: bool = True) -> None:
        """As without systemd, which is told first: it must not undo it."""
        resources = with_quota_of_systemd(resources)
        if told := properties(resources, unified=self.unified, with_devices=with_devices):
            with _bus(self.unit) as bus:
                bus.set(told)
        super().set(resources, with_devices=with_devices)

    def update(self, resources: Mapping[str, Any], names: Iterable[str], undo: Undo) -> None:
        """As without systemd, which is told first; *undo* tells it what it knew."""
        names = list(names)
        resources = with_quota_of_systemd(resources)
        touched = {name: resources[name] for name in names}
        self._settings(touched)  # what must not be set is refused before systemd sets it
        if told := properties(touched, unified=self.unified):
            with _bus(self.unit) as bus:
                former = bus.get(name for name, _ in told)
                bus.set(told)
            undo.on_error(self._tell, former)
        super().update(resources, names, undo)

    def _tell(self, former: list[Property]) -> None:
        with _bus(self.unit) as bus:
            bus.set(former)

    def destroy(self) -> None:
        """Stop the unit, and remove what systemd has left; all of it where that does not answer."""
        try:
            with _bus(self.unit) as bus:
                bus.stop()
        except CgroupError as exc:
            stop = f"`systemctl stop {self.unit.name}`"
            logger.warning("%s; if the unit is still there when it answers: %s", exc, stop)
        super().destroy()


class SystemdV1(_UnitManager, V1Manager):
    """A unit on a v1 or hybrid host; in most hierarchies systemd makes nothing."""

    unified = False

    def _fill(self) -> None:
        V1Manager._make(self)


class SystemdV2(_UnitManager, V2Manager):
    """A unit on a v2 host."""

    unified = True

    def _fill(self) -> None:
        V2Manager._make(self)


def _bus(unit: Unit) -> Bus:
    from runtime.cgroups.systemd_bus import Bus  # noqa: PLC0415 - lazy: 30 ms

    return Bus(unit)


def base_of(unit: Unit) -> str:
    """The cgroup below which systemd puts units: the user's own manager has a part of the tree."""
    with _bus(unit) as bus:
        return bus.own_cgroup()
