"""Sets of pages as runs, against sets of page numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.memory.runs import PAGE, Run, intersect, minus, normalized, size_pages, union

pages = st.sets(st.integers(0, 60))


def runs_of(numbers: set[int]) -> list[Run]:
    return normalized((n * PAGE, (n + 1) * PAGE) for n in numbers)


def pages_of(runs: list[Run]) -> set[int]:
    return {n for start, end in runs for n in range(start // PAGE, end // PAGE)}


def is_canonical(runs: list[Run]) -> bool:
    return all(start < end for start, end in runs) and all(
        before[1] < after[0] for before, after in pairwise(runs)
    )


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9))))
def test_runs_in_any_order_and_overlapping_are_normalized(pieces: list[tuple[int, int]]) -> None:
    runs = normalized((start * PAGE, (start + length) * PAGE) for start, length in pieces)
    assert is_canonical(runs)
    assert pages_of(runs) == {n for start, length in pieces for n in range(start, start + length)}


@given(pages, pages)
def test_operations_are_those_of_sets(a: set[int], b: set[int]) -> None:
    for operation, expected in ((union, a | b), (minus, a - b), (intersect, a & b)):
        runs = operation(runs_of(a), runs_of(b))
        assert is_canonical(runs)
        assert pages_of(runs) == expected


@given(pages)
def test_size_is_counted_in_pages(numbers: set[int]) -> None:
    assert size_pages(runs_of(numbers)) == len(numbers)


def test_one_long_run_is_cut_by_many_and_cuts_many() -> None:
    whole = [(0, 10 * PAGE)]
    holes = runs_of({1, 3, 5})
    assert minus(whole, holes) == runs_of({0, 2, 4, 6, 7, 8, 9})
    assert minus(holes, whole) == []
