"""What tracking alone costs a process: no migration, one process of 1 GiB that writes 20 MB/s.

It computes all the time, as busy-20 of the matrix; by turns it is left alone and tracked with a
scan every half second, and its own progress in both is compared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from results import Sample

from runtime.memory.tracker import Scan, Tracker
from scenarios.asking import ask
from scenarios.progress import PAGE_BYTES, Progress, per_cpu_second, per_second, within
from scenarios.write_heavy import scribe

NAME, MODE, BANDWIDTH = "tracked", "tracker", "-"
TURNS, TURN_S, SCAN_EVERY_S = 6, 1.5, 0.5

Span = tuple[float, float]


class Pace(NamedTuple):
    """Pages written a second, and a second of CPU that it got."""

    by_clock: float
    by_cpu: float


def measure_tracking() -> Sample:
    """One process, some turns of both, each held against the one before it; medians."""
    alone: list[Span] = []
    tracked: list[Span] = []
    scans: list[Scan] = []
    with _scribe() as (pid, root):
        for _ in range(TURNS):
            alone.append(_span(TURN_S))
            with Tracker.attach(lambda: [pid]) as tracker:
                scans.append(tracker.scan())
                begin = time.time()
                for _ in range(round(TURN_S / SCAN_EVERY_S)):
                    time.sleep(SCAN_EVERY_S)
                    scans.append(tracker.scan())
                tracked.append((begin, time.time()))
        answer = json.loads(ask(root, patience_s=30))
    progress = [Progress(at / 1e9, writes, cpu / 1e9) for at, writes, cpu in answer["samples"]]
    pairs = [
        (_pace(progress, *a), _pace(progress, *b)) for a, b in zip(alone, tracked, strict=True)
    ]
    return Sample(
        BANDWIDTH,
        NAME,
        MODE,
        before_mb_s=statistics.median(a.by_clock for a, _ in pairs) * PAGE_BYTES / 1e6,
        slowed=statistics.median(1 - b.by_clock / a.by_clock for a, b in pairs),
        slowed_cpu=statistics.median(1 - b.by_cpu / a.by_cpu for a, b in pairs),
        stop_us=statistics.median(scan.stop_us for scan in scans if scan.stop_us),
        scan_us=statistics.median(scan.scan_us for scan in scans),
        problems=[f"{len(answer['wrong'])} pages changed"] if answer["wrong"] else [],
    )


def _span(seconds: float) -> Span:
    begin = time.time()
    time.sleep(seconds)
    return begin, time.time()


def _pace(progress: list[Progress], begin: float, end: float) -> Pace:
    samples = within(progress, begin, end)
    return Pace(per_second(samples), per_cpu_second(samples))


@contextmanager
def _scribe() -> Iterator[tuple[int, Path]]:
    """scribe.py with its memory filled, in no container: its pid, and where it looks for /ask."""
    root = Path(tempfile.mkdtemp(prefix="mig-bench-"))
    process = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-S", scribe.__file__, "1024", "128", "20e6", "working", "full"],
        env={"SCRIBE_ROOT": str(root)},
    )
    try:
        ask(root, patience_s=30)
        yield process.pid, root
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(root)
