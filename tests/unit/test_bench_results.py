"""The benchmark's medians, and what is said of its targets."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.table import Table

BENCH = Path(__file__).parents[2] / "tools/bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(BENCH)
    names = ("noise", "results", "targets", "matrix", "by_hand", "lazy_criu")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name)


def cells(table: Table) -> list[list[str]]:
    columns = [list(column.cells) for column in table.columns]
    return [[str(cell) for cell in row] for row in zip(*columns, strict=True)]


def samples(bench: dict[str, ModuleType], *silences: tuple[str, float | None]) -> list[Any]:
    results = bench["results"]
    return [
        results.Sample("1gbit", "idle", mode, silence_ms=silence, total_ms=silence)
        if silence is not None
        else results.Sample.failed("1gbit", "idle", mode, "lost")
        for mode, silence in silences
    ]


def test_medians_of_all_modes_stand_beside_each_other(bench: dict[str, ModuleType]) -> None:
    figures = [("auto", 100.0), ("cold", 400.0), ("auto", 900.0), ("auto", 200.0)]
    drawn = cells(bench["results"].silences(samples(bench, *figures)))
    assert drawn == [["idle", "1gbit", "200", "400"]]


def test_a_failed_run_counts_for_no_median_and_is_said(bench: dict[str, ModuleType]) -> None:
    found = samples(bench, ("auto", None), ("auto", 80.0), ("cold", None))
    assert cells(bench["results"].silences(found)) == [
        ["idle", "1gbit", "80 (1 of 2 failed)", "failed"]
    ]
    assert bench["results"].failures(found) == [
        "idle, 1gbit, auto: lost",
        "idle, 1gbit, cold: lost",
    ]


def test_a_noisy_run_counts_for_nothing_and_is_made_again(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(0, 0), (1, 99), (1, 99), (51, 149), (51, 149), (51, 249)])
    monkeypatch.setattr(bench["noise"], "_times", lambda: next(times))
    monkeypatch.setattr(bench["noise"], "_piece_of_work_s", lambda: 1.0)
    silences = iter([100.0, 900.0, 200.0])

    def measure(mode: str) -> Any:
        return samples(bench, (mode, next(silences)))[0]

    found = list(bench["noise"].by_turns(["auto"], 2, measure, bench["noise"].Watch(0.05)))
    assert [(s.stolen, s.noisy) for s in found] == [(0.01, False), (0.5, True), (0.0, False)]
    assert cells(bench["results"].silences(found)) == [["idle", "1gbit", "150"]]
    assert "noisy" in str(found[1])


def test_a_run_on_a_machine_that_has_become_slower_counts_for_nothing(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    paces = iter([1.0] * 13 + [1.3] * 3 + [1.05] * 6)
    monkeypatch.setattr(bench["noise"], "_times", lambda: (0, 1))
    monkeypatch.setattr(bench["noise"], "_piece_of_work_s", lambda: next(paces))
    one = samples(bench, ("auto", 1.0))[0]
    found = list(bench["noise"].by_turns(["auto"], 1, lambda _: one, bench["noise"].Watch(0.1)))
    assert [(round(s.slower, 2), s.noisy) for s in found] == [(0.3, True), (0.05, False)]


def test_a_machine_that_is_never_quiet_is_given_up(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 10))
    monkeypatch.setattr(bench["noise"], "_times", lambda: (next(ticks), 0))
    monkeypatch.setattr(bench["noise"], "_piece_of_work_s", lambda: 1.0)
    one = samples(bench, ("auto", 1.0))[0]
    assert (
        len(list(bench["noise"].by_turns(["auto"], 2, lambda _: one, bench["noise"].Watch(0.05))))
        == 8
    )
    assert (
        len(list(bench["noise"].by_turns(["auto"], 2, lambda _: one, bench["noise"].Watch(None))))
        == 2
    )


def test_what_a_way_does_not_tell_is_a_dash(bench: dict[str, ModuleType]) -> None:
    drawn = cells(bench["results"].details(samples(bench, ("auto", 1500.0))))
    assert drawn == [["idle", "1gbit", "auto", "1500", "-", "1.50", *["-"] * 9]]


def goals(bench: dict[str, ModuleType], *found: Any) -> dict[str, tuple[float, bool]]:
    return {
        goal.what: (goal.measured, goal.reached)
        for goal in bench["targets"].targets(found)
        if goal.measured is not None
    }


def test_a_target_is_reached_below_its_limit(bench: dict[str, ModuleType]) -> None:
    assert goals(bench, *samples(bench, ("auto", 99.0))) == {"idle: silence": (99.0, True)}
    assert goals(bench, *samples(bench, ("auto", 101.0))) == {"idle: silence": (101.0, False)}
    assert goals(bench, *samples(bench, ("cold", 99.0), ("auto", None))) == {}


def test_targets_that_compare_two_workloads(bench: dict[str, ModuleType]) -> None:
    sample = bench["results"].Sample
    found = goals(
        bench,
        sample("1gbit", "redis-1024", "auto", silence_ms=200.0),
        sample("1gbit", "redis-4096", "auto", silence_ms=380.0),
        sample("1gbit", "redis-1024", "lazy-pages", silence_ms=1000.0),
        sample("off", "redis-1024", "auto", silence_ms=1.0),
    )
    assert found == {
        "Redis 1 GiB: silence": (200.0, True),
        "Redis 1 GiB: silence, as a part of post-copy by hand": (0.2, True),
        "Redis: further silence for each further GiB": (60.0, True),
    }


def test_bytes_are_held_against_what_had_to_go(bench: dict[str, ModuleType]) -> None:
    sample = bench["results"].Sample(
        "1gbit", "half-zero", "auto", wire_bytes=700, not_zero_bytes=500, rewritten_bytes=100
    )
    assert list(goals(bench, sample).values()) == [(pytest.approx(700 / 600), False)]


def test_every_target_is_listed_also_when_nothing_was_measured(
    bench: dict[str, ModuleType],
) -> None:
    drawn = cells(bench["targets"].table(bench["targets"].targets([])))
    assert {row[-1] for row in drawn} == {"not measured"}


def test_one_question_is_not_asked_of_every_mode(bench: dict[str, ModuleType]) -> None:
    assert bench["matrix"].pairs(["idle", "busy-20"], ["auto", "cold"]) == [
        ("idle", "auto"),
        ("idle", "cold"),
        ("busy-20", "auto"),
    ]


def test_the_targets_need_a_few_of_all_pairs(bench: dict[str, ModuleType]) -> None:
    matrix = bench["matrix"]
    judged = matrix.pairs(list(matrix.WORKLOADS), list(matrix.MODES), judged=True)
    assert set(judged) == set(matrix.JUDGED)
    assert matrix.pairs(["idle", "write-1"], ["auto", "cold"], judged=True) == [("idle", "auto")]
