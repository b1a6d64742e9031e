"""Events of userfaultfd(2), from the bytes that are read."""

import struct

import pytest

from runtime.memory.userfaultfd import Event, Fork, Pagefault, Remap, Remove, Unmap, events

MESSAGES: list[tuple[int, tuple[int, int, int], Event]] = [
    (0x12, (1, 0x7F0000001000, 42), Pagefault(1, 0x7F0000001000)),
    (0x13, (9, 0, 0), Fork(9)),
    (0x14, (0x1000, 0x5000, 0x2000), Remap(0x1000, 0x5000, 0x2000)),
    (0x15, (0x1000, 0x3000, 0), Remove(0x1000, 0x3000)),
    (0x16, (0x1000, 0x3000, 0), Unmap(0x1000, 0x3000)),
]


def message(kind: int, words: tuple[int, int, int]) -> bytes:
    return struct.pack("=BBHI", kind, 0, 0, 0) + struct.pack("=QQQ", *words)


def test_every_event_is_read() -> None:
    data = b"".join(message(kind, words) for kind, words, _ in MESSAGES)
    assert list(events(data)) == [event for *_, event in MESSAGES]


def test_an_event_of_tomorrow_is_refused() -> None:
    with pytest.raises(ValueError, match="0x55"):
        list(events(message(0x55, (0, 0, 0))))
