"""A container that is about to move, and what others do to it meanwhile."""

import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from migrator.plan import Destination, Plan
from migrator.source import Source
from runtime import Container, NotRunning, Paused
from tests.containers import Box
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu]


@pytest.fixture
def container(box: Box) -> Container:
    box.program("sh", "-c", "while :; do sleep 1; done")
    return box.start()


@pytest.fixture
def source(container: Container) -> Iterator[Source]:
    to = Destination.parse("root@nowhere")
    plan = Plan(container=container.id, root=container.dir.parent, destination=to)
    with closing(Source(plan)) as source:
        source.arm()
        yield source


def test_what_is_paused_here_must_not_run_there(container: Container, source: Source) -> None:
    container.pause()
    with pytest.raises(Paused):
        source.dump(lambda _: None)
    with pytest.raises(Paused):
        Source(source.plan)
    assert source.fate() == "is paused here"
    container.resume()
    assert source.fate() == "runs on here as before"


def test_of_what_has_ended_nothing_is_announced(container: Container, source: Source) -> None:
    container.signal(signal.SIGKILL)
    assert eventually(lambda: source.fate() == "has ended here")
    with pytest.raises(NotRunning):
        source.dump(lambda _: None)
    source.announce()
