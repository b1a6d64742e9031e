"""Measures `migrator migrate` in each mode beside what people do by hand: one machine, one run.

    .venv/bin/python tools/bench [--quick | --targets] [--workload W ...] [--mode M ...]
                                 [--bandwidth RATE ...] [--runs 3] [--quiet PERCENT] [--output FILE]

Prints medians and what of the targets is reached, and writes every single figure to FILE as JSON.
Fails when a run of migrator's lost something or did not end; a script that fails is only said so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from matrix import BANDWIDTHS, MODES, QUICK, TRACKED, WORKLOADS, pairs
from measuring import measure
from noise import Watch, by_turns
from results import Sample, details, failures, silences
from rich.console import Console
from targets import table, targets
from tracking import measure_tracking

from migrator.lab import lab
from migrator.lab.lab import Lab

EVERY = (TRACKED, *WORKLOADS)
BY_HAND = ("stop-and-copy", "lazy-pages")


def measure_all(options: argparse.Namespace, console: Console) -> Iterator[Sample]:
    """Every combination so many times; all ways take turns, so that they meet the same noise."""
    wanted = pairs(
        [w for w in options.workload if w != TRACKED], options.mode, judged=options.targets
    )
    total = options.runs * (len(options.bandwidth) * len(wanted) + (TRACKED in options.workload))
    watch = Watch(None if options.quiet is None else options.quiet / 100)
    done, begin = 0, time.monotonic()

    def say(sample: Sample) -> Sample:
        nonlocal done
        done += not sample.noisy
        passed = f"{done}/{total}, {time.monotonic() - begin:.0f} s"
        console.print(f"{passed}: {sample}", soft_wrap=True)
        return sample

    if TRACKED in options.workload:
        yield from map(say, by_turns([()], options.runs, lambda _: measure_tracking(), watch))
    for bandwidth in options.bandwidth:
        with lab.up("bench", bandwidth=bandwidth, owned=True) as up:
            one = partial(_measured, up, bandwidth)
            yield from map(say, by_turns(wanted, options.runs, one, watch))


def _measured(up: Lab, bandwidth: str, kind: tuple[str, str]) -> Sample:
    return measure(up, bandwidth, *kind)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "pipe_max_bytes": int(Path("/proc/sys/fs/pipe-max-size").read_text()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workload", action="append", choices=EVERY, help="one; repeatable")
    parser.add_argument("--mode", action="append", choices=MODES, help="one; repeatable")
    parser.add_argument("--bandwidth", action="append", metavar="RATE", help="1gbit, ... or off")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} at 1gbit")
    parser.add_argument("--targets", action="store_true", help="only what they are judged by")
    parser.add_argument(
        "--quiet", type=float, metavar="PERCENT",
        help="measure again what had more than that of the CPUs taken by other machines",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    usual = [name for name in EVERY if name != "redis-64"]
    options.workload = options.workload or (list(QUICK) if options.quick else usual)
    options.mode = options.mode or list(MODES)
    shaped_only = options.quick or options.targets
    options.bandwidth = options.bandwidth or list(BANDWIDTHS[: 1 if shaped_only else None])
    if shutil.which("runc") is None and set(BY_HAND) & set(options.mode):
        parser.error("runc is not installed: `tools/setup --bench` installs it")
    return options


def main() -> int:
    options = parse()
    before = machine()
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 130)
    samples: list[Sample] = []
    try:
        for sample in measure_all(options, console):
            samples.append(sample)
            _save(before, samples, options.output)
    finally:
        _conclude(samples, console)
        console.print(f"every figure: {options.output}")
    return 1 if any(s.problems for s in samples if s.mode not in BY_HAND) else 0


def _save(before: dict[str, object], samples: list[Sample], output: Path) -> None:
    figures = {
        "machine": before,
        "samples": [sample.as_json() for sample in samples],
        "targets": [goal.as_json() for goal in targets(samples)],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=1) + "\n")


def _conclude(samples: list[Sample], console: Console) -> None:
    """Also of a run that was interrupted: what there is."""
    parts = [details(samples), table(targets(samples)), *failures(samples)]
    for part in [silences(samples), *parts] if any(s.silence_ms for s in samples) else parts:
        console.print(part, soft_wrap=isinstance(part, str))


if __name__ == "__main__":
    sys.exit(main())
