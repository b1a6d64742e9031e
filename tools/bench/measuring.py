"""One migration, watched from outside: silence, bytes on the cable, what it reports of itself."""

from __future__ import annotations

from typing import Any

from matrix import MODES, WORKLOADS
from results import Sample

from migrator.lab.errors import LabError
from migrator.lab.host import Host
from migrator.lab.lab import Lab
from migrator.lab.layout import UPLINK
from scenarios.errors import ScenarioFailed
from scenarios.progress import pace
from scenarios.workload import Move, Mover, Outcome, Workload, migrate_under_observation


class Metered:
    """A mover beside which the source host's cable is read: bytes sent while it moves."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self.wire_bytes = 0

    def start(self, lab: Lab, workload: Workload) -> None:
        self._mover.start(lab, workload)

    def move(self, lab: Lab, workload: Workload) -> Move:
        before = _sent_by(lab.hosts[0])
        try:
            return self._mover.move(lab, workload)
        finally:
            self.wire_bytes = _sent_by(lab.hosts[0]) - before

    def listed(self, host: Host) -> dict[str, str]:
        return self._mover.listed(host)

    def remove(self, lab: Lab, workload: Workload) -> None:
        self._mover.remove(lab, workload)


def _sent_by(host: Host) -> int:
    return int(host.run("cat", f"/sys/class/net/{UPLINK}/statistics/tx_bytes").stdout)


def measure(up: Lab, bandwidth: str, workload: str, mode: str) -> Sample:
    """One migration; a failure becomes a sample that says so."""
    try:
        mover = Metered(MODES[mode]())
        outcome = migrate_under_observation(up, WORKLOADS[workload](), mover)
    except (LabError, ScenarioFailed) as error:
        return Sample.failed(bandwidth, workload, mode, _last_line(str(error)))
    return Sample(
        bandwidth=bandwidth, workload=workload, mode=mode, wire_bytes=mover.wire_bytes,
        problems=outcome.problems, **_seen(outcome), **_reported(outcome.move),
    )  # fmt: skip


def _last_line(said: str) -> str:
    return said.strip().rpartition("\n")[2]


def _seen(outcome: Outcome) -> dict[str, Any]:
    seen = outcome.observation
    found: dict[str, Any] = {
        "silence_ms": seen.silence_ms,
        "noise_ms": seen.noise_ms,
        "not_zero_bytes": seen.facts.get("not_zero_bytes"),
    }
    if (told := pace(seen.progress, outcome.move.report)) is not None:
        found |= {
            "before_mb_s": told.before_mb_s,
            "slowed": told.slowed,
            "slowed_cpu": told.slowed_cpu,
            "rewritten_bytes": told.rewritten_bytes,
        }
    return found


def _reported(move: Move) -> dict[str, Any]:
    """What the migration says of itself; a script says little."""
    report = move.report
    memory = report.get("memory") or {}
    return {
        "frozen_ms": move.downtime_ms,
        "total_ms": move.total_ms,
        "page_bytes": memory.get("bytes"),
        "cpu_s": report.get("cpu_s"),
        "max_rss_bytes": report.get("max_rss_bytes"),
        "rounds": len(memory["rounds"]) if memory else None,
        "filled_ms": (memory.get("filled") or {}).get("duration_ms"),
        "report": report,
    }
