"""A container that only ticks: how long does a migration stop a process that needs nothing?"""

from __future__ import annotations

from pathlib import Path

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.asking import ask
from scenarios.bundle import Bundle, python_bundle
from scenarios.idle import ticker
from scenarios.workload import Observation, rootfs_on


class IdleWorkload:
    """One Python process that wakes up every millisecond; 7 MB resident, 2 of them its own."""

    name = "idle"
    marker = "/ticker.py"
    watching = "nobody is connected, the container watches the clock itself"

    def bundle(self) -> Bundle:
        return python_bundle(Path(ticker.__file__), hostname="idle")

    def watch(self, lab: Lab) -> None:
        """Nothing to do: it observes itself. Returns when it ticks."""
        self._ask(rootfs_on(lab.hosts[0], self.name))

    def observed(self, lab: Lab, running_on: Host) -> Observation:
        """Ask it; the second longest gap is what its own scheduling can do."""
        ticks, gaps = self._ask(rootfs_on(running_on, self.name))
        return Observation(gaps[0] / 1e6, gaps[1] / 1e6, {"ticks": ticks})

    def stop_watching(self) -> None:
        """Nothing to do."""

    @staticmethod
    def _ask(rootfs: Path) -> tuple[int, list[int]]:
        """Ticks so far and the longest gaps in ns, longest first."""
        ticks, *gaps = ask(rootfs).splitlines()
        return int(ticks), [int(line.split()[0]) for line in gaps]
