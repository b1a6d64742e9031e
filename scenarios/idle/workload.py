"""A container that only ticks: how long does a migration stop a process that needs nothing?"""

from __future__ import annotations

import sys
import sysconfig
import time
from pathlib import Path

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.bundle import Bundle
from scenarios.idle import ticker
from scenarios.workload import Observation, ScenarioFailed, rootfs_on

PATIENCE_S = 10


class IdleWorkload:
    """One Python process that wakes up every millisecond; 7 MB resident, 2 of them its own."""

    name = "idle"
    marker = "/ticker.py"
    watching = "nobody is connected, the container watches the clock itself"

    def bundle(self) -> Bundle:
        encodings = Path(sysconfig.get_path("stdlib"), "encodings")
        python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        return Bundle(
            arguments=["/usr/bin/python3", "-I", "-S", "/ticker.py"],
            programs={"/usr/bin/python3": python},
            files={"/ticker.py": Path(ticker.__file__), str(encodings): encodings},
            hostname="idle",
        )

    def watch(self, lab: Lab) -> None:
        """Nothing to do: it observes itself. Returns when it ticks."""
        ask(rootfs_on(lab.hosts[0], self.name))

    def observed(self, lab: Lab, running_on: Host) -> Observation:
        """Ask it; the second longest gap is what its own scheduling can do."""
        ticks, gaps = ask(rootfs_on(running_on, self.name))
        return Observation(gaps[0] / 1e6, gaps[1] / 1e6, {"ticks": ticks})

    def stop_watching(self) -> None:
        """Nothing to do."""


def ask(rootfs: Path) -> tuple[int, list[int]]:
    """Ticks so far and the longest gaps in ns, longest first, from the ticker with that rootfs."""
    answer = rootfs / "answer"
    answer.unlink(missing_ok=True)
    (rootfs / "ask").touch()
    deadline = time.monotonic() + PATIENCE_S
    while not answer.exists():
        if time.monotonic() > deadline:
            raise ScenarioFailed(f"the ticker in {rootfs} does not answer: is it running?")
        time.sleep(0.01)
    ticks, *gaps = answer.read_text().splitlines()
    return int(ticks), [int(line.split()[0]) for line in gaps]
