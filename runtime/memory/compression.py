"""Compression of pages by the distribution's libzstd and liblz4, called through ctypes.

Python has neither before 3.14. A library that is not installed is not offered, and nothing else
changes: what both hosts have decides what may be used. Calls release the interpreter's lock.
Sources: zstd.h "Explicit context", lz4.h "Simple Functions".
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import c_char, c_int, c_size_t, c_uint, c_void_p
from functools import cache
from typing import Protocol

#: the fastest level that zstd gives by itself; higher ones are slower than a 1 Gbit/s link
ZSTD_LEVEL = 1


class CorruptData(ValueError):
    """What was to be decompressed is not what `compress` has made of so many bytes."""


class Codec(Protocol):
    """One way to compress. An object is used by one thread at a time."""

    name: str

    def compress(self, data: memoryview, into: memoryview) -> int:
        """Compress *data* to the beginning of *into*, both writable; the bytes that it took.

        0 where it does not fit: give less room than *data* has, and what grows stays as it is.
        """

    def decompress(self, data: memoryview, into: memoryview) -> None:
        """The reverse, into exactly the bytes of *into*; CorruptData for anything else."""


class Lz4:
    """The quick one: about 1 GB/s and a core, ratios of 2 on typical memory."""

    name = "lz4"

    def __init__(self) -> None:
        self._library = _lz4()

    def compress(self, data: memoryview, into: memoryview) -> int:
        return int(
            self._library.LZ4_compress_default(_address(data), _address(into), len(data), len(into))
        )

    def decompress(self, data: memoryview, into: memoryview) -> None:
        size = self._library.LZ4_decompress_safe(
            _address(data), _address(into), len(data), len(into)
        )
        if size != len(into):
            raise CorruptData(f"lz4: {len(data)} bytes that do not become {len(into)}")


class Zstd:
    """The better one: about 500 MB/s and a core, ratios of 3 on typical memory."""

    name = "zstd"

    def __init__(self) -> None:
        self._library = _zstd()
        self._compressor = self._library.ZSTD_createCCtx()
        self._decompressor = self._library.ZSTD_createDCtx()
        if not self._compressor or not self._decompressor:
            raise MemoryError("no memory for a zstd context")
        weakref.finalize(self, self._library.ZSTD_freeCCtx, self._compressor)
        weakref.finalize(self, self._library.ZSTD_freeDCtx, self._decompressor)

    def compress(self, data: memoryview, into: memoryview) -> int:
        size = self._library.ZSTD_compressCCtx(
            self._compressor, _address(into), len(into), _address(data), len(data), ZSTD_LEVEL
        )
        return 0 if self._library.ZSTD_isError(size) else int(size)

    def decompress(self, data: memoryview, into: memoryview) -> None:
        size = self._library.ZSTD_decompressDCtx(
            self._decompressor, _address(into), len(into), _address(data), len(data)
        )
        if size != len(into):  # also an error code, which is larger than any size
            raise CorruptData(f"zstd: {len(data)} bytes that do not become {len(into)}")


def available() -> dict[str, Codec]:
    """A fresh codec of each library that this host has, by name: the quick one first."""
    codecs: dict[str, Codec] = {}
    for codec in (Lz4, Zstd):
        try:
            codecs[codec.name] = codec()
        except OSError:
            continue
    return codecs


def _address(view: memoryview) -> int:
    return ctypes.addressof(c_char.from_buffer(view)) if len(view) else 0


@cache
def _lz4() -> ctypes.CDLL:
    library = ctypes.CDLL("liblz4.so.1")
    for call in (library.LZ4_compress_default, library.LZ4_decompress_safe):
        call.argtypes = (c_void_p, c_void_p, c_int, c_int)
    return library


@cache
def _zstd() -> ctypes.CDLL:
    library = ctypes.CDLL("libzstd.so.1")
    buffers = (c_void_p, c_size_t, c_void_p, c_size_t)
    for call, result, arguments in (
        ("ZSTD_createCCtx", c_void_p, ()),
        ("ZSTD_createDCtx", c_void_p, ()),
        ("ZSTD_freeCCtx", c_size_t, (c_void_p,)),
        ("ZSTD_freeDCtx", c_size_t, (c_void_p,)),
        ("ZSTD_compressCCtx", c_size_t, (c_void_p, *buffers, c_int)),
        ("ZSTD_decompressDCtx", c_size_t, (c_void_p, *buffers)),
        ("ZSTD_isError", c_uint, (c_size_t,)),
    ):
        function = getattr(library, call)
        function.restype, function.argtypes = result, arguments
    return library
