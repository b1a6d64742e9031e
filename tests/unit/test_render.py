"""What a migration shows to people and to programs."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from migrator.errors import NotReported
from migrator.plan import Destination, Plan
from migrator.render import migration_progress, print_report, size
from migrator.report import Phase, Report

PLAN = Plan(container="redis1", root=Path("/run/migrator"), destination=Destination(host="beta"))
REPORT = Report(
    container="redis1",
    destination="beta",
    outcome="migrated",
    mode="cold",
    frozen_at_ms=0.0,
    downtime_ms=123.456,
    total_ms=2345.6,
    image_bytes=2 << 20,
    rootfs_bytes=1 << 20,
    phases=[
        Phase("preflight", 10.04, 200.06),
        Phase("restore", 900.0, 30.0, host="destination", frozen=True),
    ],
    warnings=["the [old] images were left"],
)


def test_the_report_tells_phases_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(REPORT)
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["preflight", "source", "10.0", "200.1", "runs"] in lines
    assert ["restore", "destination", "900.0", "30.0", "frozen"] in lines
    assert (
        "redis1 runs on beta: stood still for 123 ms, moved in 2.35 s, "
        "3.0 MiB sent (2.0 MiB of its state, 1.0 MiB of its files)\n"
    ) in shown
    assert "warning: the [old] images were left\n" in shown


def test_the_report_is_json_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(REPORT, as_json=True)
    assert json.loads(capsys.readouterr().out) == REPORT.as_json()


def test_nothing_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with migration_progress(PLAN) as observer:
        assert observer is None
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_each_phase_as_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours, "rb", buffering=0) as terminal:
        monkeypatch.setattr(sys, "stderr", stream)
        with migration_progress(PLAN) as observer:
            assert observer is not None
            observer("begin", "restore", 900.0)
            observer("end", "restore", 30.04)
        shown = "".join(line.decode() for line in (terminal.readline(), terminal.readline()))
    assert "redis1 -> beta" in shown
    assert "✓ restore                 30.0 ms" in shown


def test_a_terminal_that_is_closed_ends_no_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with migration_progress(PLAN) as observer:
            assert observer is not None
            os.close(ours)
            observer("begin", "restore", 900.0)
            observer("end", "restore", 30.04)
        with suppress(OSError):
            stream.close()


def test_a_report_that_nobody_reads_says_so_to_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for fd, error in ((writer, BrokenPipeError), (os.open("/dev/full", os.O_WRONLY), NotReported)):
        stream = os.fdopen(fd, "w")
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(error):
            print_report(REPORT)
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 30) - 1, "1024.0 MiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes_are_in_the_unit_that_a_person_would_use(count: int, text: str) -> None:
    assert size(count) == text
