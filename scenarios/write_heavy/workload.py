"""A container with one process that rewrites its memory, checks it, and says how far it is."""

from __future__ import annotations

import json
import mmap
import time
from pathlib import Path
from typing import Any

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.asking import ask
from scenarios.bundle import Bundle, python_bundle
from scenarios.progress import Progress
from scenarios.workload import Observation, rootfs_on
from scenarios.write_heavy import scribe

PATIENCE_S = 60


class ScribeWorkload:
    """So many MiB, of which working_mib are rewritten, mb_per_second 10^6 bytes a second.

    half_zero: every other page holds zeros. busy: it computes instead of waiting between its
    writes, so that its progress shows what slows it down.
    settle_s: so long it runs before it is moved.
    """

    marker = "/scribe.py"

    def __init__(
        self,
        *,
        mib: int,
        working_mib: int,
        mb_per_second: float,
        half_zero: bool = False,
        busy: bool = False,
        settle_s: float = 1.0,
    ) -> None:
        self.name = "half-zero" if half_zero else "write-heavy"
        self.watching = f"nobody is connected, it checks its {mib} MiB itself"
        self._settle_s = settle_s
        self._arguments = [
            str(mib),
            str(working_mib),
            str(mb_per_second * 1e6),
            "working" if busy else "paced",
            "half-zero" if half_zero else "full",
        ]
        self._writes_before = 0

    def bundle(self) -> Bundle:
        return python_bundle(
            Path(scribe.__file__), *self._arguments, hostname=self.name, modules=(mmap,)
        )

    def watch(self, lab: Lab) -> None:
        """Wait until it has filled its memory and writes."""
        self._writes_before = self._ask(lab.hosts[0])["writes"]
        time.sleep(self._settle_s)

    def observed(self, lab: Lab, running_on: Host) -> Observation:
        """Let it compare every page; the second longest gap is what its own scheduling can do."""
        seen = self._ask(running_on)
        problems = []
        if wrong := seen["wrong"]:
            problems.append(f"{len(wrong)} pages changed, number {wrong[0]} is the first")
        if seen["writes"] < self._writes_before:
            problems.append(f"{seen['writes']} writes after {self._writes_before} before")
        facts = {
            "pages_compared": seen["pages"],
            "pages_wrong": len(wrong),
            "pages_written": seen["writes"],
            "not_zero_bytes": seen["not_zero"],
        }
        (longest, _), (second, _), *_ = seen["gaps"]
        progress = [Progress(ns / 1e9, writes, cpu / 1e9) for ns, writes, cpu in seen["samples"]]
        return Observation(longest / 1e6, second / 1e6, facts, problems, progress)

    def stop_watching(self) -> None:
        """Nothing to do."""

    def _ask(self, host: Host) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(ask(rootfs_on(host, self.name), patience_s=PATIENCE_S))
        return answer
