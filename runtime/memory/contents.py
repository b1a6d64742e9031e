"""What a page contains, in 16 bytes: GMAC by a key of the page store's own (NIST SP 800-38D).

Whoever does not know the key can make two pages of one hash only by luck, of about 1 in 2**120,
which is what a container would have to do to be given one of its pages for another: the key is made
at random for each store, and known to both hosts alone. A third of SHA-256's time with the
processor's own instructions; zero pages are compared, which is faster yet.
"""

from __future__ import annotations

import mmap
import os

PAGE_SIZE = mmap.PAGESIZE
HASH_SIZE = 16
KEY_SIZE = 16
#: stands in a table of hashes for a page that is not there; no content has it
NO_HASH = bytes(HASH_SIZE)
ZERO_HASH = bytes(HASH_SIZE - 1) + b"\1"

# A bytearray compares itself with any buffer by memcmp; bytes and memoryview do not.
_ZERO_PAGE = bytearray(PAGE_SIZE)
_WORDS = PAGE_SIZE // 8
# One for all: two hashes of one nonce tell about the key, to whom they are told.
_NONCE = bytes(12)


class PageHash:
    """The hash of pages by one key. The hashes are as secret as the key."""

    def __init__(self, key: bytes | None = None) -> None:
        """key: of KEY_SIZE bytes, else ValueError; None: a new one."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 10 ms

        self.key = os.urandom(KEY_SIZE) if key is None else key
        if len(self.key) != KEY_SIZE:
            raise ValueError(f"a key of {len(self.key)} bytes")
        self._authenticate = AESGCM(self.key).encrypt

    def each(self, view: memoryview) -> list[bytes]:
        """The hash of each page of *view* (as `flat` returns it), in order."""
        firsts = view.cast("Q")[::_WORDS].tolist()
        pages = [view[at : at + PAGE_SIZE] for at in range(0, len(view), PAGE_SIZE)]
        authenticate = self._authenticate
        if all(firsts):  # no page begins with zeros: nothing to compare
            return [authenticate(_NONCE, b"", page) for page in pages]
        return [
            ZERO_HASH
            if not first and _ZERO_PAGE == page  # noqa: SIM300 - by memcmp only this way round
            else authenticate(_NONCE, b"", page)
            for first, page in zip(firsts, pages, strict=True)
        ]

    def of(self, data: memoryview | bytes | bytearray) -> bytes:
        """16 bytes for each page of *data*; ValueError where that is not whole pages."""
        return b"".join(self.each(flat(data)))


def flat(data: memoryview | bytes | bytearray) -> memoryview:
    """The bytes of *data*, which must be whole pages; else ValueError."""
    view = memoryview(data).cast("B")
    if len(view) % PAGE_SIZE:
        raise ValueError(f"{len(view)} bytes are no whole pages")
    return view


def split_hashes(hashes: bytes | memoryview) -> list[bytes]:
    """Hashes as one string, cut into each; ValueError where one is not whole."""
    if len(hashes) % HASH_SIZE:
        raise ValueError(f"{len(hashes)} bytes are no whole hashes")
    whole = bytes(hashes)
    return [whole[at : at + HASH_SIZE] for at in range(0, len(whole), HASH_SIZE)]
