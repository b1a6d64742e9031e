#!/usr/bin/env python3
"""Measures migrator's verbs beside runc's and crun's: one machine, one run, medians and ratios.

    .venv/bin/python tools/bench_runtime.py [--runs 20] [--runtime NAME=PATH ...] [--output FILE]

All take turns at every verb, so that they meet the same noise. A runtime that is not installed is
named and left out. Prints what of the targets is reached; fails when one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).with_name("conformance")))

from rich.console import Console
from rich.table import Table
from runtimes import Runtime, found, fresh, working

from runtime import Container

OURS = "migrator"
ROOT = Path(__file__).parents[1]
LISTED = 50
STATE_MS, RUN_RATIO, MEMORY_KB = 70, 2.0, 1000

Act = Callable[[Runtime], None]


class Verb(NamedTuple):
    """What is measured, and what has to be there before."""

    act: Act
    prepare: Act = lambda runtime: None


def must(runtime: Runtime, *args: str) -> None:
    """Run a command that has to succeed."""
    answer = runtime(*args)
    if answer.code:
        raise SystemExit(f"{runtime.name} {' '.join(args)}: {answer.err.strip()}")


def _true(runtime: Runtime) -> None:
    runtime.configure(process={"args": ["true"]})


def _running(runtime: Runtime) -> None:
    must(runtime, "run", "--detach", runtime.id)


def _whole_life(runtime: Runtime) -> None:
    must(runtime, "create", runtime.id)
    must(runtime, "start", runtime.id)
    must(runtime, "delete", "--force", runtime.id)


def _fifty(runtime: Runtime) -> None:
    for number in range(LISTED):
        own = f"{runtime.id}-{number}"
        runtime.configure(linux={"cgroupsPath": f"/{own}-{os.getpid()}"})
        must(runtime, "create", own)


VERBS: dict[str, Verb] = {
    "run true": Verb(lambda runtime: must(runtime, "run", runtime.id), _true),
    "create + start + delete": Verb(_whole_life),
    "exec true": Verb(lambda runtime: must(runtime, "exec", runtime.id, "true"), _running),
    "state": Verb(lambda runtime: must(runtime, "state", runtime.id), _running),
    f"list of {LISTED}": Verb(lambda runtime: must(runtime, "list"), _fifty),
}
LIBRARY = "Container.run, warm process"


def measure(verb: Verb, runtimes: list[Runtime], runs: int) -> dict[str, list[float]]:
    """Milliseconds of each run of each, but for the first ones, in which files are read."""
    for runtime in runtimes:
        verb.prepare(runtime)
    taken: dict[str, list[float]] = {runtime.name: [] for runtime in runtimes}
    for _ in range(runs + 1):
        for runtime in runtimes:
            taken[runtime.name].append(timed(lambda runtime=runtime: verb.act(runtime)))  # type: ignore[misc]
    return {name: each[1:] for name, each in taken.items()}


def timed(do: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    do()
    return 1000 * (time.perf_counter() - started)


def in_process(runtime: Runtime) -> None:
    """The same as `run true`, from this process."""
    status = Container.run(runtime.directory / "state", runtime.id, runtime.bundle.path)
    assert status == 0


def memory_of_a_container(runtime: Runtime) -> float:
    """KB that a detached container keeps of ours: processes outside it, and its state directory."""
    before = set(_pids())
    _running(runtime)
    container = Container.load(runtime.directory / "state", runtime.id)
    ours = set(_pids()) - before - set(container.processes())
    resident = sum(map(_proportional_kb, ours))
    return resident + sum(path.stat().st_blocks / 2 for path in container.dir.iterdir())


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _proportional_kb(pid: int) -> int:
    """Of a process of this machine that has to do with us; others come and go."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    if b"migrator" not in command and b"runtime." not in command:
        return 0
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(prog="tools/bench_runtime.py")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench-runtime.json")
    options = parser.parse_args()
    console = Console(width=120)
    paths = found(dict(each.split("=", 1) for each in options.runtime))
    figures: dict[str, dict[str, list[float]]] = {}
    with TemporaryDirectory(prefix="migrator-bench-") as directory:
        there = working(paths, Path(directory), partial(console.print, markup=False))
        for title, verb in VERBS.items():
            with ExitStack() as stack:
                runtimes = [
                    stack.enter_context(fresh(name, path, Path(directory) / name))
                    for name, path in there.items()
                ]
                figures[title] = measure(verb, runtimes, options.runs)
        with fresh(OURS, there[OURS], Path(directory) / OURS) as runtime:
            _true(runtime)
            own = Verb(in_process)
            figures[LIBRARY] = measure(own, [runtime], options.runs)
        with fresh(OURS, there[OURS], Path(directory) / OURS) as runtime:
            memory_kb = memory_of_a_container(runtime)
    console.print(_table(figures, list(there)))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"ms": figures, "memory_kb": memory_kb}, indent=2))
    return _judge(console, figures, memory_kb)


def _table(figures: dict[str, dict[str, list[float]]], names: list[str]) -> Table:
    table = Table("median ms (least)", *names, header_style="")
    for title, each in figures.items():
        ours = median(each[OURS])
        cells = [
            f"{median(each[name]):.1f} ({min(each[name]):.1f})"
            + (f", {ours / median(each[name]):.1f}x" if name != OURS else "")
            if name in each
            else ""
            for name in names
        ]
        table.add_row(title, *cells)
    return table


def _judge(console: Console, figures: dict[str, dict[str, list[float]]], memory_kb: float) -> int:
    state_ms = median(figures["state"][OURS])
    rows: list[tuple[str, Any, Any]] = [
        ("state, ms", state_ms, STATE_MS),
        ("memory of a detached container, KB", memory_kb, MEMORY_KB),
    ]
    if "runc" in (run := figures["run true"]):
        rows.insert(
            0, ("run true, times runc's", median(run[OURS]) / median(run["runc"]), RUN_RATIO)
        )
    for title, value, target in rows:
        word = "reached" if value <= target else "NOT reached"
        console.print(f"{title}: {value:.1f}, to reach {target}: {word}")
    return int(any(value > target for _, value, target in rows))


if __name__ == "__main__":
    sys.exit(main())
