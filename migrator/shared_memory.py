"""Shared memory on its way out: given beforehand, so that the images have numbers for its pages.

CRIU dumps and restores it from its images, with the container frozen. What is written to it between
the last look and the freeze goes then; looks follow one another as long as each finds much less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from migrator.images import ImageSender
from runtime import Container
from runtime.memory import shmem

_LOOKS = 6
#: a look that finds no more is the last
_LITTLE_BYTES = 1 << 20
_CLEARLY_LESS = 0.7


def size_bytes(container: Container) -> int:
    """Of all that its processes have."""
    return sum(each.size_bytes for each in shmem.segments(container.processes()))


def give(container: Container, sender: ImageSender, alive: Callable[[], None]) -> None:
    """Give the pages of its shared memory. alive: called between them; what it raises ends it."""
    before = 0
    for look in range(_LOOKS):
        given = sender.give(_blocks(container, alive))
        if given <= _LITTLE_BYTES or (look and given > _CLEARLY_LESS * before):
            return
        before = given


def _blocks(container: Container, alive: Callable[[], None]) -> Iterator[bytes]:
    for segment in shmem.segments(container.processes()):
        for block in shmem.blocks(segment):
            yield block
            alive()
