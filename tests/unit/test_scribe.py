"""The process that knows what each of its pages must hold, and what its progress tells."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from scenarios.asking import ask
from scenarios.errors import ScenarioFailed
from scenarios.progress import PAGE_BYTES, Progress, pace
from scenarios.write_heavy import scribe

PAGE = scribe.PAGE


@pytest.mark.parametrize("writes", [0, 1, 40, 64, 65, 200])
def test_every_page_is_as_it_was_written(writes: int) -> None:
    memory = scribe.Memory(128, 64, half_zero=False)
    memory.write(writes)
    assert memory.wrong_pages() == []
    assert memory.writes == writes


def test_a_changed_byte_is_found_wherever_it_is() -> None:
    memory = scribe.Memory(128, 32, half_zero=True)
    memory.write(50)
    memory._bytes[3 * PAGE + 4000] ^= 1  # one that bears something
    memory._bytes[20 * PAGE] ^= 1  # in the block of zeros that begins at 16
    assert memory.wrong_pages() == [3, 16]


def test_an_old_copy_of_a_page_is_found() -> None:
    memory = scribe.Memory(64, 64, half_zero=False)
    before = memory._bytes[:]
    memory.write(memory.working)
    memory._bytes[7 * PAGE : 8 * PAGE] = before[7 * PAGE : 8 * PAGE]
    assert memory.wrong_pages() == [7]


def test_half_of_the_pages_are_zero() -> None:
    memory = scribe.Memory(256, 32, half_zero=True)
    zero = [n for n in range(256) if memory._bytes[n * PAGE : (n + 1) * PAGE] == bytes(PAGE)]
    assert len(zero) == 128


@pytest.mark.parametrize("pages", [3, 69, 1024, 40503, 26112])
def test_each_page_of_the_working_set_is_rewritten_in_turn(pages: int) -> None:
    working = scribe.without_common_divisor(pages)
    assert pages - 3 <= working <= pages
    assert len({place * scribe.STRIDE % working for place in range(working)}) == working


def test_the_answer_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribe, "ROOT", str(tmp_path))
    memory, clock = scribe.Memory(64, 16, half_zero=False), scribe.Clock()
    clock.tick(memory.writes)
    answering = Thread(target=answer_once, args=(tmp_path, memory, clock))
    answering.start()
    said = json.loads(ask(tmp_path))
    answering.join()
    assert (said["wrong"], said["pages"], said["ticks"]) == ([], 64, 1)
    assert not (tmp_path / "ask").exists()


def answer_once(root: Path, memory: scribe.Memory, clock: scribe.Clock) -> None:
    while not (root / "ask").exists():
        os.sched_yield()
    scribe.answer(memory, clock)


def test_who_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioFailed, match="does not answer: is it running"):
        ask(tmp_path, patience_s=0)


def samples() -> Iterator[Progress]:
    """5 s at 100 writes a second with 0.5 s of CPU a second; the last 2 s before the freeze at
    90, with 0.5 too; then frozen for 1 s."""
    writes, cpu = 0, 0.0
    for n in range(100):
        yield Progress(1000 + n * 0.05, writes, cpu)
        writes, cpu = writes + (100 if n < 60 else 90), cpu + 0.025
    yield Progress(1006.0, writes, cpu)
    yield Progress(1006.05, writes + 100, cpu + 0.025)


REPORT = {
    "frozen_at_ms": 2500.0,
    "phases": [{"name": "preflight", "start_ms": 9.0}, {"name": "copy memory", "start_ms": 600.0}],
}


def test_how_much_a_migration_slows_a_process_down() -> None:
    found = pace(list(samples()), REPORT)
    assert found is not None
    assert found.slowed == pytest.approx(0.1)
    assert found.slowed_cpu == pytest.approx(0.1)
    assert found.before_mb_s == pytest.approx(100 * 20 * PAGE_BYTES / 1e6)
    assert found.rewritten_bytes == pytest.approx(1.9 * 90 * 20 * PAGE_BYTES, rel=0.05)


def test_without_rounds_or_samples_nothing_is_known_of_the_pace() -> None:
    assert pace([], REPORT) is None
    assert pace(list(samples()), {"phases": []}) is None
