"""Measures `migrator migrate` beside the same migration by hand: same machine, same run, by turns.

    .venv/bin/python tools/bench [--runs 5] [--bandwidth 1gbit --bandwidth off] [--output FILE]

Prints medians, and writes every single figure to FILE as JSON. Fails when a run lost something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from by_hand import ByHand
from results import Sample, table
from rich.console import Console

from migrator.lab import lab
from migrator.lab.errors import LabError
from scenarios.by_migrator import ByMigrator
from scenarios.errors import ScenarioFailed
from scenarios.idle.workload import IdleWorkload
from scenarios.redis_live.workload import RedisWorkload
from scenarios.workload import Mover, Workload, migrate_under_observation

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "Redis 64 MiB": lambda: RedisWorkload(64),
    "idle": IdleWorkload,
}
MOVERS: dict[str, Callable[[], Mover]] = {"migrate": ByMigrator, "by hand": ByHand}


def measure(up: lab.Lab, bandwidth: str, workload: str, mover: str) -> Sample:
    """One migration, watched; a failure becomes a sample that says so."""
    try:
        outcome = migrate_under_observation(up, WORKLOADS[workload](), MOVERS[mover]())
    except (LabError, ScenarioFailed) as error:
        return Sample.failed(bandwidth, workload, mover, str(error))
    seen, move = outcome.observation, outcome.move
    return Sample(
        bandwidth=bandwidth,
        workload=workload,
        mover=mover,
        silence_ms=seen.silence_ms,
        noise_ms=seen.noise_ms,
        downtime_ms=move.downtime_ms,
        total_ms=move.total_ms,
        size_bytes=move.size_bytes,
        problems=outcome.problems,
    )


def measure_all(bandwidths: Sequence[str], runs: int, console: Console) -> list[Sample]:
    """Every combination so many times; both ways take turns, so that they meet the same noise."""
    samples = []
    for bandwidth in bandwidths:
        with lab.up("bench", bandwidth=bandwidth, owned=True) as up:
            for run in range(runs):
                for workload in WORKLOADS:
                    for mover in MOVERS:
                        sample = measure(up, bandwidth, workload, mover)
                        console.print(f"{run + 1}/{runs} {sample}")
                        samples.append(sample)
    return samples


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bandwidth", action="append", metavar="RATE", help="1gbit, ... or off")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    if shutil.which("runc") is None:
        parser.error("runc is not installed: `tools/setup --bench` installs it")
    before = machine()
    console = Console(highlight=False, markup=False, width=110)
    samples = measure_all(options.bandwidth or ["1gbit", "off"], options.runs, console)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figures = {"machine": before, "samples": [sample.as_json() for sample in samples]}
    options.output.write_text(json.dumps(figures, indent=1) + "\n")
    console.print(table(samples))
    console.print(f"every figure: {options.output}")
    return 1 if any(sample.problems for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
