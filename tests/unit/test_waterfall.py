"""The frozen window, drawn: every millisecond has an owner."""

import pytest

from migrator.report import Phase
from migrator.waterfall import BETWEEN, Row, rows, waterfall, window_of

PHASES = [
    Phase("sync rootfs", 10.0, 80.0),
    Phase("dump", 100.0, 30.0, frozen=True),
    Phase("send pages", 110.0, 25.0, frozen=True),
    Phase("restore", 140.0, 50.0, frozen=True),
    Phase("criu", 150.0, 30.0, "destination", frozen=True),
    Phase("memory", 155.0, 5.0, "destination", frozen=True),
    Phase("commit", 190.0, 20.0, frozen=True),
]


def named(name: str) -> Row:
    return next(row for row in rows(PHASES, 100.0, 200.0) if row.name == name)


def test_rows_stand_in_the_order_in_which_they_begin() -> None:
    found = [(row.name, row.start_ms, row.duration_ms) for row in rows(PHASES, 100.0, 200.0)]
    assert found == [
        ("dump", 0.0, 30.0),
        ("send pages", 10.0, 25.0),
        (BETWEEN, 35.0, 5.0),
        ("restore", 40.0, 50.0),
        ("criu", 50.0, 30.0),
        ("memory", 55.0, 5.0),
        ("commit", 90.0, 10.0),  # it goes on after the window
    ]


def test_what_lies_within_another_is_below_it() -> None:
    depths = [row.depth for row in rows(PHASES, 100.0, 200.0)]
    assert depths == [0, 0, 0, 0, 1, 2, 0]


def test_every_millisecond_has_one_owner() -> None:
    assert sum(row.own_ms for row in rows(PHASES, 100.0, 200.0)) == pytest.approx(100.0)
    assert named("restore").own_ms == pytest.approx(20.0)
    assert named("criu").own_ms == pytest.approx(25.0)


def test_of_two_side_by_side_the_one_waited_for_owns_the_time() -> None:
    assert named("dump").own_ms == pytest.approx(10.0)
    assert named("send pages").own_ms == pytest.approx(25.0)


def test_what_sticks_out_a_little_is_still_within() -> None:
    inner = [Phase("inner", 4.9, 5.2), Phase("outer", 5.0, 10.0), Phase("last", 9.0, 6.1)]
    found = [(row.name, row.depth) for row in rows(inner, 0.0, 20.0)]
    assert found == [(BETWEEN, 0), ("outer", 0), ("inner", 1), ("last", 1), (BETWEEN, 0)]


def test_of_two_equal_phases_one_is_within_the_other() -> None:
    twins = [Phase("a", 0.0, 10.0), Phase("b", 0.0, 10.0)]
    assert [(row.name, row.depth) for row in rows(twins, 0.0, 10.0)] == [("a", 0), ("b", 1)]


def test_a_window_without_phases_is_one_gap() -> None:
    assert rows([], 5.0, 8.0) == [Row(BETWEEN, "", 0, 0.0, 3.0, 3.0)]


def test_lines_are_as_wide_as_asked_and_end_with_the_total() -> None:
    lines = waterfall(PHASES, 100.0, 200.0, 100)
    assert {len(line) for line in lines} == {100}
    assert lines[-1].split() == ["total", "100.0", "100.0"]
    assert lines[1].split() == ["dump", "source", "█" * 14 + "▊", "0.0", "30.0", "10.0"]
    assert lines[6].startswith("    memory destination ")


def test_the_shortest_phase_is_still_to_be_seen() -> None:
    line = waterfall([Phase("blink", 0.0, 0.2)], 0.0, 1000.0, 80)[1]
    assert "▏" in line


def test_an_empty_window_is_drawn_too() -> None:
    assert waterfall(PHASES, 100.0, 100.0, 60)[-1].split() == ["total", "0.0", "0.0"]


def test_markup_colours_the_bars_and_escapes_names() -> None:
    phases = [Phase("copy [1]", 0.0, 5.0), Phase("fill", 5.0, 5.0, "destination")]
    _, source, destination, _ = waterfall(phases, 0.0, 10.0, 80, markup=True)
    assert "copy \\[1]" in source
    assert "[cyan]" in source
    assert "[magenta]" in destination


def test_the_window_is_found_in_a_report() -> None:
    phases = [
        {"name": "sync", "start_ms": 0.0, "duration_ms": 9.0, "host": "source", "frozen": False},
        {"name": "dump", "start_ms": 10.0, "duration_ms": 5.0, "host": "source", "frozen": True},
    ]
    report = {"phases": phases, "downtime_ms": 7.0, "frozen_at_ms": 9.5}
    assert window_of(report)[1:] == (9.5, 16.5)
    assert [phase.name for phase in window_of(report)[0]] == ["sync", "dump"]
