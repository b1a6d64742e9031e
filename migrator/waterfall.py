"""The frozen window as a waterfall: a row for each part of it, each millisecond owned by one row.

Pure: phases in, lines of text out. A phase that lies within another one's time is drawn below and
indented; what nothing covers has a row "(between)".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from migrator.report import Phase

BETWEEN = "(between)"
#: What is shorter than this, ms, is not worth a row.
SHORTEST_MS = 0.1

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLOURS = {"source": "cyan", "destination": "magenta"}
_SLACK_MS = 0.2  # both hosts time their own phases: an inner one may seem to stick out a little


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the window; own_ms is what of it no other row owns. Times from its beginning."""

    name: str
    host: str
    depth: int
    start_ms: float
    duration_ms: float
    own_ms: float

    @property
    def end_ms(self) -> float:
        return self.start_ms + self.duration_ms


def waterfall(
    phases: Sequence[Phase],
    window_start_ms: float,
    window_end_ms: float,
    width: int,
    *,
    markup: bool = False,
) -> list[str]:
    """The window as lines of *width* columns: what, where, a bar, start, length, its own share.

    The shares add up to the last line's total. markup: with rich's colours, one for each host.
    """
    found = rows(phases, window_start_ms, window_end_ms)
    total_ms = max(window_end_ms - window_start_ms, 0.0)
    names = max([len("  " * row.depth + row.name) for row in found] + [len("total")])
    bar = max(width - names - len(" destination  ") - 3 * 9, 8)
    heading = f"{'':{names}} {'':11}  {'':{bar}}{'starts':>9}{'takes':>9}{'own, ms':>9}"
    lines = [_line(row, names, bar, total_ms, markup=markup) for row in found]
    last = f"{'total':{names}} {'':11}  {'':{bar}}{'':9}{total_ms:9.1f}{total_ms:9.1f}"
    return [heading, *lines, last]


def rows(phases: Sequence[Phase], window_start_ms: float, window_end_ms: float) -> list[Row]:
    """Every phase that has a part in the window, cut to it; inner ones follow their outer one."""
    inside = sorted(_cut(phases, window_start_ms, window_end_ms), key=lambda p: p.start_ms)
    parents = [_parent(inside, number) for number in range(len(inside))]
    depths = [_depth(parents, number) for number in range(len(inside))]
    owned = _owned(inside, depths, window_end_ms - window_start_ms)
    found = {
        _path(inside, parents, n): Row(
            p.name, p.host, depths[n], p.start_ms, p.duration_ms, owned[n]
        )
        for n, p in enumerate(inside)
    }
    for start, end in _gaps(inside, window_end_ms - window_start_ms):
        found[((start, -1),)] = Row(BETWEEN, "", 0, start, end - start, end - start)
    return [found[place] for place in sorted(found)]


def window_of(report: Mapping[str, Any]) -> tuple[list[Phase], float, float]:
    """Phases, start and end of the frozen window of a report's JSON, as `waterfall` takes them."""
    phases = [Phase(**phase) for phase in report["phases"]]
    start_ms = report["frozen_at_ms"]
    return phases, start_ms, start_ms + report["downtime_ms"]


def _cut(phases: Iterable[Phase], start_ms: float, end_ms: float) -> Iterator[Phase]:
    """What of each lies in the window, times counted from the window's beginning."""
    for phase in phases:
        begin = max(phase.start_ms, start_ms)
        end = min(phase.start_ms + phase.duration_ms, end_ms)
        if end - begin >= SHORTEST_MS:
            yield Phase(phase.name, begin - start_ms, end - begin, phase.host, phase.frozen)


def _end(phase: Phase) -> float:
    return phase.start_ms + phase.duration_ms


def _parent(phases: Sequence[Phase], number: int) -> int | None:
    """The shortest of those within whose time the *number*th lies; of equals the first."""
    inner = phases[number]
    around = [
        (outer.duration_ms, -n, n)
        for n, outer in enumerate(phases)
        if outer.start_ms <= inner.start_ms + _SLACK_MS
        and _end(inner) <= _end(outer) + _SLACK_MS
        and (outer.duration_ms, -n) > (inner.duration_ms, -number)
    ]
    return min(around)[2] if around else None


def _path(
    phases: Sequence[Phase], parents: Sequence[int | None], number: int
) -> tuple[tuple[float, int], ...]:
    """Where it stands: start and number of the outermost phase around it, and so on inwards."""
    parent = parents[number]
    before = () if parent is None else _path(phases, parents, parent)
    return *before, (phases[number].start_ms, number)


def _depth(parents: Sequence[int | None], number: int) -> int:
    parent = parents[number]
    return 0 if parent is None else 1 + _depth(parents, parent)


def _owned(phases: Sequence[Phase], depths: Sequence[int], total_ms: float) -> list[float]:
    """How long each is the owner: the innermost; side by side, the one that ends last."""
    owned = [0.0] * len(phases)
    edges = {0.0, total_ms}.union(*((phase.start_ms, _end(phase)) for phase in phases))
    for start, end in pairwise(sorted(edges)):
        middle = (start + end) / 2
        covering = [n for n, p in enumerate(phases) if p.start_ms <= middle < _end(p)]
        if covering:
            owned[max(covering, key=lambda n: (depths[n], _end(phases[n])))] += end - start
    return owned


def _gaps(phases: Sequence[Phase], total_ms: float) -> Iterator[tuple[float, float]]:
    """Where no phase is, within the window."""
    covered = 0.0
    for start, end in [*((p.start_ms, _end(p)) for p in phases), (total_ms, total_ms)]:
        if start - covered >= SHORTEST_MS:
            yield covered, start
        covered = max(covered, end)


def _line(row: Row, names: int, bar: int, total_ms: float, *, markup: bool) -> str:
    name = "  " * row.depth + row.name
    drawn = _bar(row, bar, total_ms)
    if markup:
        name = name.replace("[", "\\[")
        names += name.count("\\[")
        colour = _COLOURS.get(row.host, "dim")
        drawn = f"[{colour}]{drawn}[/]"
    figures = f"{row.start_ms:9.1f}{row.duration_ms:9.1f}{row.own_ms:9.1f}"
    return f"{name:{names}} {row.host:11}  {drawn}{figures}"


def _bar(row: Row, width: int, total_ms: float) -> str:
    """The row's time on a line of *width* cells; its right end to an eighth of a cell."""
    cells = width / total_ms if total_ms else 0.0
    left = min(int(row.start_ms * cells), width - 1)
    eighths = max(round(row.end_ms * cells * 8) - left * 8, 1)
    full, rest = divmod(min(eighths, (width - left) * 8), 8)
    return f"{' ' * left}{'█' * full}{_EIGHTHS[rest] if rest else ''}".ljust(width)
