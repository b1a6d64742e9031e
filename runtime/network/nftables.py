"""As much of nf_tables as it takes to find and remove what another program has put there.

Speaks netlink itself, with the few messages of linux/netfilter/nf_tables.h that it needs: it runs
where a container waits for its network, and pyroute2 alone would take 190 ms to import.
Rules of iptables are found too, wherever its programs keep them in nf_tables.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NESTED = 0x8000 | 0x4000

_GET_TABLE, _DEL_TABLE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_DEL_CHAIN = _SUBSYSTEM | 5
_GET_RULE, _DEL_RULE = _SUBSYSTEM | 7, _SUBSYSTEM | 8
_GET_ELEMENTS = _SUBSYSTEM | 13
_GET_GENERATION = _SUBSYSTEM | 16

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER_BYTES = 1 << 20
_TIMEOUT_S = 5.0


class Table(NamedTuple):
    """One table; family as in linux/netfilter.h: 1 inet, 2 ip, 10 ip6."""

    family: int
    name: str


class Rule(NamedTuple):
    """One rule, as far as it is looked at."""

    table: Table
    chain: str
    handle: bytes
    #: the chain that it ends in, if any
    jumps_to: str
    #: everything that parts of packets are compared with
    compared: frozenset[bytes]


class Nftables:
    """A conversation with nf_tables of the network namespace that it is opened in.

    Raises OSError where the kernel has no nf_tables, or refuses a change.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_TIMEOUT_S)
        self._number = 0
        self._batch: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def check(self) -> None:
        """Raise OSError unless the kernel has nf_tables."""
        self._send(self._message(_GET_GENERATION, _REQUEST, 0, b""))
        list(self._answers(1))

    def tables(self) -> Iterator[Table]:
        """Every table there is."""
        for family, attributes in self._dump(_GET_TABLE, b""):
            yield Table(family, _text(attributes[1]))

    def rules(self) -> Iterator[Rule]:
        """Every rule of every table."""
        for family, attributes in self._dump(_GET_RULE, b""):
            expressions = attributes.get(4, b"")
            yield Rule(
                Table(family, _text(attributes[1])),
                _text(attributes[2]),
                attributes[3],
                _target(expressions),
                frozenset(_compared(expressions)),
            )

    def elements(self, table: Table, name: str) -> Iterator[bytes]:
        """The keys in the set *name* of *table*."""
        wanted = _attribute(1, _string(table.name)) + _attribute(2, _string(name))
        for _, attributes in self._dump(_GET_ELEMENTS, wanted, table.family):
            for _, element in _attributes(attributes.get(3, b"")):
                yield _inner(element, 1, 1)

    def delete_table(self, table: Table) -> None:
        """Remove a table with all that is in it, at `commit`."""
        self._change(_DEL_TABLE, table.family, _attribute(1, _string(table.name)))

    def delete_rule(self, rule: Rule) -> None:
        """Remove one rule, at `commit`."""
        where = _attribute(1, _string(rule.table.name)) + _attribute(2, _string(rule.chain))
        self._change(_DEL_RULE, rule.table.family, where + _attribute(3, rule.handle))

    def delete_chain(self, table: Table, chain: str) -> None:
        """Remove a chain and its rules, at `commit`."""
        in_table = _attribute(1, _string(table.name))
        self._change(_DEL_RULE, table.family, in_table + _attribute(2, _string(chain)))
        self._change(_DEL_CHAIN, table.family, in_table + _attribute(3, _string(chain)))

    def commit(self) -> None:
        """Make all changes at once, or none of them."""
        if not self._batch:
            return
        begin = self._message(_BATCH_BEGIN, _REQUEST, 0, b"", resource=10)
        end = self._message(_BATCH_END, _REQUEST, 0, b"", resource=10)
        changes, self._batch = self._batch, []
        self._send(b"".join((begin, *changes, end)))
        list(self._answers(len(changes)))

    def _change(self, kind: int, family: int, attributes: bytes) -> None:
        self._batch.append(self._message(kind, _REQUEST | _ACK, family, attributes))

    def _dump(
        self, kind: int, attributes: bytes, family: int = 0
    ) -> Iterator[tuple[int, dict[int, bytes]]]:
        self._send(self._message(kind, _REQUEST | _DUMP, family, attributes))
        for payload in self._answers(None):
            yield payload[0], dict(_attributes(payload[_FAMILY.size :]))

    def _message(
        self, kind: int, flags: int, family: int, attributes: bytes, *, resource: int = 0
    ) -> bytes:
        self._number += 1
        payload = _FAMILY.pack(family, 0, resource) + attributes
        return _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._number, 0) + payload

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    def _answers(self, count: int | None) -> Iterator[bytes]:
        """Payloads until *count* messages or acknowledgements came; None: to the end of a dump."""
        while count is None or count > 0:
            data = self._socket.recv(_BUFFER_BYTES)
            for kind, payload in _messages(data):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    _check(payload)
                else:
                    yield payload
                count = None if count is None else count - 1


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[_aligned(size) :]


def _check(payload: bytes) -> None:
    (number,) = struct.unpack_from("=i", payload)
    if number:
        raise OSError(-number, f"nf_tables: {os.strerror(-number)}")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : size]
        data = data[_aligned(max(size, _ATTRIBUTE.size)) :]


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(_aligned(size) - size)


def _aligned(size: int) -> int:
    return size + 3 & ~3


def _string(text: str) -> bytes:
    return os.fsencode(text) + b"\0"


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


def _inner(value: bytes, *path: int) -> bytes:
    """What nested attributes hold at *path*; nothing where they end before."""
    for kind in path:
        value = dict(_attributes(value)).get(kind, b"")
    return value


def _expressions(value: bytes, name: str) -> Iterator[bytes]:
    for _, expression in _attributes(value):
        if _text(_inner(expression, 1)) == name:
            yield _inner(expression, 2)


def _target(expressions: bytes) -> str:
    verdicts = [_inner(data, 2, 2) for data in _expressions(expressions, "immediate")]
    return next((_text(_inner(verdict, 2)) for verdict in verdicts if verdict), "")


def _compared(expressions: bytes) -> Iterator[bytes]:
    for data in _expressions(expressions, "cmp"):
        yield _inner(data, 3, 1)
