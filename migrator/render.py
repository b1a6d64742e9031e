"""Drawing for people: a migration's phases as they pass, and its report. Only here is rich used.

Lists of containers and processes are plain columns, as runc's: other programs read them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from migrator.errors import NotReported
from runtime.oserrors import reason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from migrator.plan import Plan
    from migrator.report import Memory, Observer, Report

_UNITS = ("KiB", "MiB", "GiB", "TiB")


@contextmanager
def migration_progress(plan: Plan) -> Iterator[Observer | None]:
    """The observer of a migration: a line for each phase on standard error, if that is a terminal.

    Written by the caller itself, without a thread that redraws: nothing else runs in the time in
    which the container is frozen.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - lazy: 60 ms

    console = Console(stderr=True, highlight=False)
    console.print(f"{plan.container} -> {plan.destination}", markup=False, style="bold")

    def observe(event: str, phase: str, ms: float) -> None:
        with suppress(OSError):  # whose terminal is closed is not to end a migration by that
            if event == "begin":
                console.print(f"  … {phase}", markup=False, style="dim", end="\r")
            else:
                console.print(f"  ✓ {phase:<18}{ms:>10.1f} ms", markup=False)

    yield observe


def print_report(report: Report, *, as_json: bool = False, plot: bool = False) -> None:
    """A finished migration on standard output; *plot*: with its frozen time as a waterfall.

    Raises BrokenPipeError, NotReported.
    """
    text = json.dumps(report.as_json(), indent=2) + "\n" if as_json else _drawn(report, plot=plot)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotReported(report.container, report.destination, reason(error)) from error


def _drawn(report: Report, *, plot: bool) -> str:
    from rich.console import Console  # noqa: PLC0415 - lazy: 60 ms

    console = Console(highlight=False)
    with console.capture() as drawn:  # rich itself ends the program where nobody reads
        console.print(_phases(report))
        if report.memory is not None:
            _memory(console, report.memory)
        if plot:
            _plot(console, report)
        _summary(console, report)
    return drawn.get()


def _phases(report: Report) -> Table:
    from rich import box  # noqa: PLC0415 - as Console
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("phase", "host"):
        table.add_column(name)
    for name in ("starts, ms", "takes, ms"):
        table.add_column(name, justify="right")
    table.add_column("container")
    for phase in report.phases:
        times = f"{phase.start_ms:.1f}", f"{phase.duration_ms:.1f}"
        table.add_row(phase.name, phase.host, *times, "frozen" if phase.frozen else "runs")
    return table


def _memory(console: Console, memory: Memory) -> None:
    for each in memory.rounds:
        sent = f"{each.pages} pages, {size(each.bytes)} in {each.seconds:.2f} s"
        console.print(f"round {each.number}: {sent}; {each.why}", markup=False, soft_wrap=True)
    tracked = f"tracked by {memory.tracker}, stopped for {memory.stop_us / 1000:.1f} ms"
    if memory.tracker == "none":
        tracked = "fetched after it ran"
    pages = f"{memory.data_pages} pages sent, {memory.same_pages} known, {memory.zero_pages} zero"
    console.print(f"memory: {tracked}; {pages}", markup=False, soft_wrap=True)
    if filled := memory.filled:
        console.print(
            f"filled: {filled.pages} pages in {filled.duration_ms:.0f} ms, {filled.faults} of them "
            "because it waited for them",
            markup=False,
            soft_wrap=True,
        )


def _plot(console: Console, report: Report) -> None:
    from migrator.waterfall import waterfall  # noqa: PLC0415 - seldom wanted

    console.print("")
    start_ms, end_ms = report.frozen_at_ms, report.frozen_at_ms + report.downtime_ms
    for line in waterfall(report.phases, start_ms, end_ms, console.width, markup=True):
        console.print(line, soft_wrap=True)
    console.print("")


def _summary(console: Console, report: Report) -> None:
    console.print(
        f"{report.container} runs on {report.destination}: stood still for "
        f"{report.downtime_ms:.0f} ms, moved in {report.total_ms / 1000:.2f} s, "
        f"{size(report.bytes)} sent "
        f"({size(report.image_bytes)} of its state, {size(report.rootfs_bytes)} of its files)",
        markup=False,
        soft_wrap=True,
    )
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def size(count: int) -> str:
    """Bytes in the unit that a person would use."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"
