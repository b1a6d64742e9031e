"""As much of nf_tables as it takes to lock a network, and to remove what another program put there.

The few messages of linux/netfilter/nf_tables.h that it needs, and one thing of its own: a lock.
Rules of iptables are found too, wherever its programs keep them in nf_tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from runtime.network import netlink
from runtime.network.netlink import (
    ACK,
    APPEND,
    CREATE,
    DUMP,
    EXCLUSIVE,
    REQUEST,
    attribute,
    attributes,
    string,
    text,
)

_SUBSYSTEM_NUMBER = 10
_SUBSYSTEM = _SUBSYSTEM_NUMBER << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11

_NEW_TABLE, _GET_TABLE, _DEL_TABLE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_NEW_CHAIN, _DEL_CHAIN = _SUBSYSTEM | 3, _SUBSYSTEM | 5
_NEW_RULE, _GET_RULE, _DEL_RULE = _SUBSYSTEM | 6, _SUBSYSTEM | 7, _SUBSYSTEM | 8
_GET_ELEMENTS = _SUBSYSTEM | 13
_GET_GENERATION = _SUBSYSTEM | 16

_FAMILY = struct.Struct("!BBH")
_INET, _LOCAL_IN, _LOCAL_OUT, _DROP, _ACCEPT = 1, 1, 3, 0, 1  # linux/netfilter.h
# linux/netfilter/nf_tables.h: NFT_REG_VERDICT, NFT_REG_1; NFT_META_L4PROTO; NFT_CMP_EQ
_VERDICT, _REGISTER, _PROTOCOL, _EQUAL = 0, 1, 16, 0
_TCP = b"\x06"


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
        self._socket = netlink.Netlink(netlink.NETFILTER)
        self._batch: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def check(self) -> None:
        """Raise OSError unless the kernel has nf_tables."""
        self._socket.send(self._message(_GET_GENERATION, REQUEST, 0, b""))
        list(self._socket.answers(1))

    def tables(self) -> Iterator[Table]:
        """Every table there is."""
        for family, found in self._dump(_GET_TABLE, b""):
            yield Table(family, text(found[1]))

    def rules(self) -> Iterator[Rule]:
        """Every rule of every table."""
        for family, found in self._dump(_GET_RULE, b""):
            expressions = found.get(4, b"")
            yield Rule(
                Table(family, text(found[1])),
                text(found[2]),
                found[3],
                _target(expressions),
                frozenset(_compared(expressions)),
            )

    def elements(self, table: Table, name: str) -> Iterator[bytes]:
        """The keys in the set *name* of *table*."""
        wanted = attribute(1, string(table.name)) + attribute(2, string(name))
        for _, found in self._dump(_GET_ELEMENTS, wanted, table.family):
            for _, element in attributes(found.get(3, b"")):
                yield _inner(element, 1, 1)

    def lock(self, name: str) -> None:
        """Have a new table *name* drop all that comes in, and what goes out of TCP, at `commit`."""
        table = attribute(1, string(name))
        self._change(_NEW_TABLE, _INET, table, CREATE | EXCLUSIVE)
        self._new_chain(table, "input", _LOCAL_IN, _DROP)
        self._new_chain(table, "output", _LOCAL_OUT, _ACCEPT)
        is_tcp = attribute(1, _number(_REGISTER)) + attribute(2, _number(_EQUAL))
        is_tcp += attribute(3, attribute(1, _TCP))
        drop = attribute(1, _number(_VERDICT))
        drop += attribute(2, attribute(2, attribute(1, _number(_DROP))))
        expressions = [
            ("meta", attribute(1, _number(_REGISTER)) + attribute(2, _number(_PROTOCOL))),
            ("cmp", is_tcp),
            ("immediate", drop),
        ]
        rule = b"".join(
            attribute(1, attribute(1, string(kind)) + attribute(2, content))
            for kind, content in expressions
        )
        where = table + attribute(2, string("output"))
        self._change(_NEW_RULE, _INET, where + attribute(4, rule), CREATE | APPEND)

    def delete_table(self, table: Table) -> None:
        """Remove a table with all that is in it, at `commit`."""
        self._change(_DEL_TABLE, table.family, attribute(1, string(table.name)))

    def delete_rule(self, rule: Rule) -> None:
        """Remove one rule, at `commit`."""
        where = attribute(1, string(rule.table.name)) + attribute(2, string(rule.chain))
        self._change(_DEL_RULE, rule.table.family, where + attribute(3, rule.handle))

    def delete_chain(self, table: Table, chain: str) -> None:
        """Remove a chain and its rules, at `commit`."""
        in_table = attribute(1, string(table.name))
        self._change(_DEL_RULE, table.family, in_table + attribute(2, string(chain)))
        self._change(_DEL_CHAIN, table.family, in_table + attribute(3, string(chain)))

    def commit(self) -> None:
        """Make all changes at once, or none of them."""
        if not self._batch:
            return
        begin = self._message(_BATCH_BEGIN, REQUEST, 0, b"", resource=_SUBSYSTEM_NUMBER)
        end = self._message(_BATCH_END, REQUEST, 0, b"", resource=_SUBSYSTEM_NUMBER)
        changes, self._batch = self._batch, []
        self._socket.send(b"".join((begin, *changes, end)))
        list(self._socket.answers(len(changes)))

    def _new_chain(self, table: bytes, name: str, hook: int, policy: int) -> None:
        at = attribute(1, _number(hook)) + attribute(2, _number(0))
        chain = attribute(3, string(name)) + attribute(4, at)
        chain += attribute(5, _number(policy)) + attribute(7, string("filter"))
        self._change(_NEW_CHAIN, _INET, table + chain, CREATE)

    def _change(self, kind: int, family: int, content: bytes, flags: int = 0) -> None:
        self._batch.append(self._message(kind, REQUEST | ACK | flags, family, content))

    def _dump(
        self, kind: int, content: bytes, family: int = 0
    ) -> Iterator[tuple[int, dict[int, bytes]]]:
        self._socket.send(self._message(kind, REQUEST | DUMP, family, content))
        for _, payload in self._socket.answers(None):
            yield payload[0], dict(attributes(payload[_FAMILY.size :]))

    def _message(
        self, kind: int, flags: int, family: int, content: bytes, *, resource: int = 0
    ) -> bytes:
        return self._socket.message(kind, _FAMILY.pack(family, 0, resource) + content, flags)


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


def _inner(value: bytes, *path: int) -> bytes:
    """What nested attributes hold at *path*; nothing where they end before."""
    for kind in path:
        value = dict(attributes(value)).get(kind, b"")
    return value


def _expressions(value: bytes, name: str) -> Iterator[bytes]:
    for _, expression in attributes(value):
        if text(_inner(expression, 1)) == name:
            yield _inner(expression, 2)


def _target(expressions: bytes) -> str:
    verdicts = [_inner(data, 2, 2) for data in _expressions(expressions, "immediate")]
    return next((text(_inner(verdict, 2)) for verdict in verdicts if verdict), "")


def _compared(expressions: bytes) -> Iterator[bytes]:
    for data in _expressions(expressions, "cmp"):
        yield _inner(data, 3, 1)
