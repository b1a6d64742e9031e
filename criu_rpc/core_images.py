"""What core-*.img says of each thread, as far as it is wanted: where its struct rseq is (rseq(2)).

Read without CRIU's message classes, of which core.proto would load fourteen modules more: fields
are looked up by their numbers in the encoding of Protocol Buffers. images/{core,rseq}.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from criu_rpc.errors import BadImages

_MAGIC = struct.pack("<II", 0x54564319, 0x55053847)
_SIZE = struct.Struct("<I")
# core_entry.thread_core, thread_core_entry.rseq_entry, rseq_entry.rseq_abi_pointer
_PATH = (5, 15, 1)
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def restartable_sequences(images_dir: Path) -> list[int]:
    """The address of the struct rseq of every thread that has one. Raises BadImages, OSError."""
    found = (_restartable_sequence(path) for path in images_dir.glob("core-*.img"))
    return [address for address in found if address]


def _restartable_sequence(path: Path) -> int:
    data = path.read_bytes()
    at = len(_MAGIC)
    try:
        if data[:at] != _MAGIC:
            raise ValueError("it is not an image of this kind")
        (size,) = _SIZE.unpack_from(data, at)
        value: bytes | int = data[at + _SIZE.size : at + _SIZE.size + size]
        for number in _PATH:
            if not isinstance(value, bytes):
                raise ValueError(f"field {number} is in no message")
            value = dict(_fields(value)).get(number, b"")
    except (ValueError, IndexError, struct.error) as error:
        raise BadImages(path, f"is damaged: {error}") from error
    return value if isinstance(value, int) else 0


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Each field's number and value: an int, or the bytes of what is more than that."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not byte & 0x80:
            return value, at
