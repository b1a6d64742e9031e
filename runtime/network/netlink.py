"""A conversation with the kernel by netlink, in the few words that this package needs.

netlink(7), linux/netlink.h. pyroute2 is for what has time: to import it takes 200 ms, and reading a
namespace through it tens of milliseconds, where a container may be standing still. A socket stays
in the namespace that it was opened in, and serves from any other.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

ROUTE, XFRM, NETFILTER = 0, 6, 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE, APPEND = 0x400, 0x200, 0x800

_ERROR, _DONE = 2, 3
_CAPPED, _WITH_REASON = 0x100, 0x200
_REASON = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_NESTED = 0x8000 | 0x4000
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER_BYTES = 1 << 20
_TIMEOUT_S = 5.0


class Message(NamedTuple):
    """One message of the kernel: its type, and what follows netlink's header."""

    kind: int
    payload: bytes


class Netlink:
    """A socket of one netlink family, in the namespace of the calling thread. A context manager.

    Raises OSError where the kernel has no such family, or refuses a request; its message then has
    the kernel's own reason, if it gave one.
    """

    def __init__(self, family: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, family)
        self._socket.settimeout(_TIMEOUT_S)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Have something done; returns when it is."""
        self.send(self.message(kind, payload, REQUEST | ACK | flags))
        list(self.answers(1))

    def dump(self, kind: int, payload: bytes) -> list[Message]:
        """All there is of something."""
        self.send(self.message(kind, payload, REQUEST | DUMP))
        return list(self.answers(None))

    def message(self, kind: int, payload: bytes, flags: int) -> bytes:
        """*payload* as the next message of this conversation."""
        self._number += 1
        return _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._number, 0) + payload

    def send(self, data: bytes) -> None:
        """Send one message, or several as one batch."""
        self._socket.send(data)

    def answers(self, count: int | None) -> Iterator[Message]:
        """What comes until *count* messages or acknowledgements did; None: to a dump's end."""
        while count is None or count > 0:
            for kind, flags, payload in _messages(self._received()):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    _check(flags, payload)
                else:
                    yield Message(kind, payload)
                count = None if count is None else count - 1

    def _received(self) -> bytes:
        try:
            return self._socket.recv(_BUFFER_BYTES)
        except TimeoutError as exc:  # Python's own has neither errno nor a text of its own
            why = f"the kernel did not answer within {_TIMEOUT_S:g} s"
            raise TimeoutError(errno.ETIMEDOUT, why) from exc


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and value of each attribute in *data*."""
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : size]
        data = data[_aligned(max(size, _ATTRIBUTE.size)) :]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(_aligned(size) - size)


def string(text: str) -> bytes:
    """*text* as netlink has it."""
    return os.fsencode(text) + b"\0"


def text(value: bytes) -> str:
    """The string that *value* is."""
    return os.fsdecode(value.rstrip(b"\0"))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while data:
        size, kind, flags, *_ = _HEADER.unpack_from(data)
        yield kind, flags, data[_HEADER.size : size]
        data = data[_aligned(size) :]


def _check(flags: int, payload: bytes) -> None:
    (number,) = struct.unpack_from("=i", payload)
    if not number:
        return
    reason = b""
    if flags & _WITH_REASON and flags & _CAPPED:
        reason = dict(attributes(payload[4 + _HEADER.size :])).get(_REASON, b"")
    raise OSError(-number, text(reason) or os.strerror(-number))


def _aligned(size: int) -> int:
    return size + 3 & ~3
