"""What loading has made of a program's mappings, read while it runs."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.memory.loaded import loaded_pages
from runtime.memory.runs import PAGE

pytestmark = [pytest.mark.needs_root]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_the_pages_of_a_program_are_found_and_stay_the_same(
    sleeper: subprocess.Popen[bytes],
) -> None:
    while Path(f"/proc/{sleeper.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    time.sleep(0.1)  # it is loaded
    first = list(loaded_pages([sleeper.pid]))
    assert first
    assert {len(block) % PAGE for block in first} == {0}
    assert list(loaded_pages([sleeper.pid])) == first


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert list(loaded_pages([process.pid])) == []
