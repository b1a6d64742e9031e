"""zstd and lz4 through ctypes: what is packed comes back, what is corrupt is refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.memory.compression import Codec, CorruptData, available

CODECS = available()

pytestmark = pytest.mark.skipif(not CODECS, reason="neither liblz4.so.1 nor libzstd.so.1 is here")


@pytest.fixture(params=CODECS)
def codec(request) -> Codec:
    return CODECS[request.param]


def packed(codec: Codec, data: bytes) -> memoryview:
    room = memoryview(bytearray(len(data) + 4096))
    return room[: codec.compress(memoryview(bytearray(data)), room)]


@pytest.mark.parametrize("pages", [1, 2, 255, 256])
def test_pages_come_back(codec, pages):
    data = (os.urandom(1000) + bytes(3096)) * pages
    small = packed(codec, data)
    assert 0 < len(small) < len(data)
    back = memoryview(bytearray(len(data)))
    codec.decompress(small, back)
    assert back == data


def test_what_does_not_get_smaller_does_not_fit(codec):
    data = memoryview(bytearray(os.urandom(1 << 16)))
    assert codec.compress(data, memoryview(bytearray(len(data) - len(data) // 16))) == 0


@pytest.mark.parametrize("change", ["shorter", "longer", "cut", "garbage", "empty"])
def test_corrupt_data_is_refused_and_nothing_is_written_beyond(codec, change):
    data = b"page" * 1024
    small = packed(codec, data)
    size = {"shorter": 4095, "longer": 4097}.get(change, 4096)
    given_ = {
        "cut": small[:-5],
        "garbage": memoryview(bytearray(os.urandom(100))),
        "empty": small[:0],
    }
    room = memoryview(bytearray(b"\xaa" * 8192))
    with pytest.raises(CorruptData):
        codec.decompress(given_.get(change, small), room[:size])
    assert room[size:] == b"\xaa" * (8192 - size)


@given(st.binary(max_size=300))
def test_no_input_does_harm(data):
    for codec in CODECS.values():
        room = memoryview(bytearray(4096))
        try:
            codec.decompress(memoryview(bytearray(data)), room)
        except CorruptData:
            continue
        assert len(data) > 0
