"""The benchmark's medians."""

import importlib.util
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "tools/bench/results.py"
_spec = importlib.util.spec_from_file_location("bench_results", FILE)
assert _spec is not None
assert _spec.loader is not None
results = importlib.util.module_from_spec(_spec)
sys.modules["bench_results"] = results  # dataclasses look their module up there
_spec.loader.exec_module(results)


def row(*silences: tuple[str, float | None]) -> list[str]:
    samples = [
        results.Sample("1gbit", "idle", mover, silence_ms=silence, total_ms=silence)
        if silence is not None
        else results.Sample.failed("1gbit", "idle", mover, "lost")
        for mover, silence in silences
    ]
    drawn = results.table(samples)
    return [next(iter(column.cells)) for column in drawn.columns]


def test_medians_of_both_ways_stand_beside_each_other_with_their_ratio() -> None:
    figures = [("migrate", 100.0), ("by hand", 400.0), ("migrate", 900.0), ("migrate", 200.0)]
    assert row(*figures)[:5] == ["idle", "1gbit", "200", "400", "2.0x"]


def test_a_failed_run_counts_for_no_median() -> None:
    assert row(("migrate", None), ("by hand", 400.0))[2:5] == ["-", "400", "-"]
