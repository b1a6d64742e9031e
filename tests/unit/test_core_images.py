"""Where a thread's struct rseq is, read from images as CRIU writes them."""

import struct
from pathlib import Path

import pytest

from criu_rpc.core_images import restartable_sequences
from criu_rpc.errors import BadImages

MAGIC = struct.pack("<II", 0x54564319, 0x55053847)
ADDRESS = 0x7F1234567AA0


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def image(directory: Path, pid: int, core: bytes) -> Path:
    path = directory / f"core-{pid}.img"
    path.write_bytes(MAGIC + struct.pack("<I", len(core)) + core)
    return path


def core(*thread: bytes) -> bytes:
    others = number(1, 1) + varint(9 << 3 | 1) + bytes(8) + varint(8 << 3 | 5) + bytes(4)
    return others + message(5, number(1, 77) + b"".join(thread)) + message(3, b"more")


def test_it_is_found_among_other_fields(tmp_path: Path) -> None:
    rseq = number(1, ADDRESS) + number(2, 32) + number(3, 0x53053053)
    image(tmp_path, 1, core(message(15, rseq), message(13, b"name")))
    image(tmp_path, 2, core(message(13, b"has none")))
    assert restartable_sequences(tmp_path) == [ADDRESS]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        MAGIC,
        b"another" + MAGIC,
        MAGIC + struct.pack("<I", 3) + b"\x2a\xff\xff",
        MAGIC + struct.pack("<I", 2) + number(5, 1),
        MAGIC + struct.pack("<I", 1) + b"\x2b",
    ],
)
def test_a_damaged_one_is_told_by_its_name(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "core-1.img").write_bytes(damaged)
    with pytest.raises(BadImages, match=r"core-1\.img"):
        restartable_sequences(tmp_path)
