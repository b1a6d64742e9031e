"""Sets of pages as runs: (start, end) byte addresses, page aligned, half-open.

A list of runs is sorted, disjoint and coalesced (no run ends where the next one starts); what comes
out of here is, what goes in must be, except into `normalized`. Everything takes linear time.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from heapq import merge

Run = tuple[int, int]

PAGE = resource.getpagesize()


def normalized(runs: Iterable[Run]) -> list[Run]:
    """The same pages from runs in any order, overlapping or empty ones among them."""
    return _coalesced(sorted(runs))


def union(a: list[Run], b: list[Run]) -> list[Run]:
    """Pages of either."""
    if not a or not b:
        return list(a or b)
    return _coalesced(merge(a, b))


def minus(a: list[Run], b: list[Run]) -> list[Run]:
    """Pages of *a* that are not in *b*."""
    left: list[Run] = []
    i = 0
    for start, end in a:
        while i < len(b) and b[i][1] <= start:
            i += 1
        j = i
        while j < len(b) and b[j][0] < end:
            if b[j][0] > start:
                left.append((start, b[j][0]))
            start = b[j][1]
            j += 1
        if start < end:
            left.append((start, end))
        # The last one that was looked at may reach into the next run of a.
        i = max(i, j - 1)
    return left


def intersect(a: list[Run], b: list[Run]) -> list[Run]:
    """Pages of both."""
    both: list[Run] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            both.append((start, end))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return both


def size_pages(runs: Iterable[Run]) -> int:
    """How many pages they are."""
    return sum(end - start for start, end in runs) // PAGE


def _coalesced(ordered: Iterable[Run]) -> list[Run]:
    """Of runs ordered by their start."""
    whole: list[Run] = []
    last_start = last_end = -1
    for start, end in ordered:
        if start <= last_end:
            last_end = max(last_end, end)
        elif start < end:
            if last_end >= 0:
                whole.append((last_start, last_end))
            last_start, last_end = start, end
    if last_end >= 0:
        whole.append((last_start, last_end))
    return whole
