"""Fixtures of tests that make containers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bundles import Bundle
from tests.containers import Box, Traces
from tests.migratory import Migratory


@pytest.fixture
def box(state_root: Path, name: str, bundle: Callable[..., Bundle]) -> Iterator[Box]:
    """A bundle and a state root; what is made there is removed."""
    box = Box(state_root, name, bundle())
    yield box
    box.remove_all()


@pytest.fixture
def traceless(state_root: Path) -> Iterator[None]:
    """The test has to leave the machine as it found it."""
    before = Traces.now(state_root)
    yield
    assert Traces.now(state_root) == before


@pytest.fixture
def migratory(box: Box, room: Path) -> Migratory:
    """A container that counts, not started yet, and a directory for its images, not made yet."""
    return Migratory(box, room / "images")
