"""Figures of the benchmark, and their medians as tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

Figure = Callable[["Sample"], float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One migration.

    silence_ms: as its client or the container saw it; wire_bytes: what the source's cable has
    sent, all in all; stolen: the part of the machine's CPU time that others had; slower: than at
    its best, before or after; noisy: too much of that for it to count; slowed, slowed_cpu,
    rewritten_bytes: scenarios.progress.Pace; problems: what was lost, or why there is nothing else.
    """

    bandwidth: str
    workload: str
    mode: str
    silence_ms: float | None = None
    noise_ms: float | None = None
    frozen_ms: float | None = None
    total_ms: float | None = None
    wire_bytes: int | None = None
    page_bytes: int | None = None
    not_zero_bytes: int | None = None
    rewritten_bytes: int | None = None
    before_mb_s: float | None = None
    slowed: float | None = None
    slowed_cpu: float | None = None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    rounds: int | None = None
    filled_ms: float | None = None
    stolen: float | None = None
    slower: float | None = None
    noisy: bool = False
    stop_us: float | None = None
    scan_us: float | None = None
    problems: Sequence[str] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def failed(cls, bandwidth: str, workload: str, mode: str, why: str) -> Sample:
        return cls(bandwidth, workload, mode, problems=(why,))

    def __str__(self) -> str:
        what = f"{self.workload}, {self.bandwidth}, {self.mode}: "
        if self.problems:
            return what + "; ".join(self.problems)
        figures = {
            "silence": (self.silence_ms, "ms"),
            "total": (self.total_ms, "ms"),
            "slowed": (self.slowed and self.slowed * 100, "%"),
            "stolen": (self.stolen and self.stolen * 100, "%"),
            "machine slower": (self.slower and self.slower * 100, "%"),
        }
        said = ", ".join(
            f"{name} {value:.1f} {unit}"
            for name, (value, unit) in figures.items()
            if value is not None
        )
        return f"{what}{said}{' (noisy: measured again)' if self.noisy else ''}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def median(
    samples: Iterable[Sample], workload: str, bandwidth: str, mode: str, figure: Figure
) -> float | None:
    """Over the runs of one kind that lost nothing and were quiet; None where there is none."""
    kind = (workload, bandwidth, mode)
    found = [
        value
        for s in samples
        if (s.workload, s.bandwidth, s.mode) == kind and not (s.problems or s.noisy)
        if (value := figure(s)) is not None
    ]
    return statistics.median(found) if found else None


def silences(samples: Sequence[Sample]) -> Table:
    """The longest silence: a row for each workload and bandwidth, a column for each mode."""
    modes = list(dict.fromkeys(s.mode for s in samples if s.mode != "tracker"))
    drawn = _table("Longest silence, ms (medians)", ["workload", "bandwidth"], modes)
    moved = [s for s in samples if s.mode != "tracker"]
    for workload, bandwidth in dict.fromkeys((s.workload, s.bandwidth) for s in moved):
        row = [_cell(samples, workload, bandwidth, mode) for mode in modes]
        drawn.add_row(workload, bandwidth, *row)
    return drawn


def _cell(samples: Sequence[Sample], workload: str, bandwidth: str, mode: str) -> str:
    silence = median(samples, workload, bandwidth, mode, lambda s: s.silence_ms)
    ours = [s for s in samples if (s.workload, s.bandwidth, s.mode) == (workload, bandwidth, mode)]
    failed = sum(bool(s.problems) for s in ours)
    note = f" ({failed} of {len(ours)} failed)" if failed and silence is not None else ""
    return "failed" if failed and silence is None else _number(silence) + note


_DETAILS: dict[str, tuple[Figure, float, str]] = {
    "silence\nms": (lambda s: s.silence_ms, 1, ".0f"),
    "frozen\nms": (lambda s: s.frozen_ms, 1, ".0f"),
    "total\ns": (lambda s: s.total_ms, 1e3, ".2f"),
    "wire\nMiB": (lambda s: s.wire_bytes, 1 << 20, ".0f"),
    "pages\nMiB": (lambda s: s.page_bytes, 1 << 20, ".0f"),
    "rounds\n": (lambda s: s.rounds, 1, ".0f"),
    "filled\nms": (lambda s: s.filled_ms, 1, ".0f"),
    "slowed\n%": (lambda s: s.slowed, 0.01, ".1f"),
    "per cpu s\n%": (lambda s: s.slowed_cpu, 0.01, ".1f"),
    "cpu\ns": (lambda s: s.cpu_s, 1, ".2f"),
    "rss\nMiB": (lambda s: s.max_rss_bytes, 1 << 20, ".0f"),
    "stolen\n%": (lambda s: s.stolen, 0.01, ".0f"),
}


def details(samples: Sequence[Sample]) -> Table:
    """Everything else that was measured, a row for each way; migrator's own CPU and memory too."""
    drawn = _table("Medians of each", ["workload", "bandwidth", "mode"], list(_DETAILS))
    for kind in dict.fromkeys((s.workload, s.bandwidth, s.mode) for s in samples):
        figures = [
            _number(median(samples, *kind, figure), unit, form)
            for figure, unit, form in _DETAILS.values()
        ]
        drawn.add_row(*kind, *figures)
    return drawn


def failures(samples: Sequence[Sample]) -> list[str]:
    """What went wrong, each reason once."""
    return list(
        dict.fromkeys(
            f"{s.workload}, {s.bandwidth}, {s.mode}: {why}" for s in samples for why in s.problems
        )
    )


def _table(title: str, names: Iterable[str], figures: Iterable[str]) -> Table:
    drawn = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for heading in names:
        drawn.add_column(heading, no_wrap=True)
    for heading in figures:
        drawn.add_column(heading, justify="right")
    return drawn


def _number(value: float | None, unit: float = 1, form: str = ".0f") -> str:
    return "-" if value is None else format(value / unit, form)
