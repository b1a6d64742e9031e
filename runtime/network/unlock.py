"""Undoing what a CRIU that died left around a container that runs on.

CRIU drops a container's packets while it dumps, and puts its TCP sockets into repair mode, where
they neither send nor receive. A CRIU that fails takes both back; one that is killed does not.
criu/net.c, criu/netfilter.c, soccr/soccr.c; tcp(7) TCP_REPAIR.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from criu_rpc.logger import Logger
from runtime.network.netns import Netns, in_netns
from runtime.network.nftables import Nftables, Rule, Table
from runtime.syscalls import pidfd_getfd

logger = Logger(__name__)

#: of the tables that lock a network, CRIU's and our own
TABLE_PREFIX = "CRIU-"

_CHAIN = "CRIU"
_SETS = {socket.AF_INET: "conns4", socket.AF_INET6: "conns6"}
# soccr.h SOCCR_MARK: packets that CRIU itself sends pass the lock
_MARK = struct.pack("=I", 0xC114)
_TCP_REPAIR, _REPAIR_OFF = 19, 0


class Connection(NamedTuple):
    """A TCP connection, each end as packed address and port in network byte order."""

    family: int
    local: bytes
    local_port: bytes
    remote: bytes
    remote_port: bytes

    @property
    def directions(self) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
        """Source, its port, destination, its port: of what goes out and of what comes in."""
        yield self.local, self.local_port, self.remote, self.remote_port
        yield self.remote, self.remote_port, self.local, self.local_port


def unlock(netns: Netns, pids: Iterable[int], *, shared: bool) -> None:
    """Have the processes *pids* send and receive again in *netns*.

    shared: the namespace is not theirs alone: only what names their connections is removed there.
    What CRIU took back itself is no error.
    """
    connections = list(end_repair(pids))
    try:
        with in_netns(netns):
            tables = Nftables()
        with tables:
            (_remove_connection_locks if shared else _remove_lock)(tables, connections)
    except OSError as exc:
        logger.warning("the network of %s may still be locked: %s", netns, exc)


def end_repair(pids: Iterable[int]) -> Iterator[Connection]:
    """Let every TCP socket of *pids* go on; yields the established ones."""
    seen: set[str] = set()
    for pid in pids:
        for sock in _sockets(pid, seen):
            with sock, contextlib.suppress(OSError):
                if sock.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
                    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
                    # Leaving repair mode clears it, and nobody knows any more what it was: set, a
                    # server can be started again while this connection is there.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                yield _connection(sock)


def _sockets(pid: int, seen: set[str]) -> Iterator[socket.socket]:
    """Our own descriptors of the TCP sockets of *pid*, each socket once."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:[") and link not in seen:
                seen.add(link)
                sock = socket.socket(fileno=pidfd_getfd(pidfd, int(name)))
                if sock.family in _SETS and sock.type == socket.SOCK_STREAM:
                    yield sock
                else:
                    sock.close()


def _connection(sock: socket.socket) -> Connection:
    (local, local_port), (remote, remote_port) = sock.getsockname()[:2], sock.getpeername()[:2]
    ends = [socket.inet_pton(sock.family, address.partition("%")[0]) for address in (local, remote)]
    ports = [struct.pack("!H", port) for port in (local_port, remote_port)]
    mapped = bytes(10) + b"\xff\xff"
    if all(end.startswith(mapped) for end in ends):
        ends = [end[len(mapped) :] for end in ends]
    family = socket.AF_INET if len(ends[0]) == 4 else socket.AF_INET6
    return Connection(family, ends[0], ports[0], ends[1], ports[1])


def _remove_lock(tables: Nftables, _: list[Connection]) -> None:
    """Remove the lock of a whole namespace: a table by nftables, a chain by iptables."""
    for table in tables.tables():
        if table.name.startswith(TABLE_PREFIX):
            tables.delete_table(table)
    ours = [rule for rule in tables.rules() if _CHAIN in (rule.jumps_to, rule.chain)]
    for rule in ours:
        if rule.jumps_to == _CHAIN:
            tables.delete_rule(rule)
    for table in {rule.table for rule in ours}:
        tables.delete_chain(table, _CHAIN)
    tables.commit()


def _remove_connection_locks(tables: Nftables, connections: list[Connection]) -> None:
    """Remove the locks of single connections, as CRIU makes them in a namespace that it shares."""
    for table in list(tables.tables()):
        if table.name.startswith(TABLE_PREFIX) and _names_one(tables, table, connections):
            tables.delete_table(table)
    for rule in tables.rules():
        if any(_locks(rule, connection) for connection in connections):
            tables.delete_rule(rule)
    tables.commit()


def _names_one(tables: Nftables, table: Table, connections: list[Connection]) -> bool:
    locked = {key for name in _SETS.values() for key in tables.elements(table, name)}
    return any(
        b"".join((source, port + bytes(2), to, to_port + bytes(2))) in locked
        for connection in connections
        for source, port, to, to_port in connection.directions
    )


def _locks(rule: Rule, connection: Connection) -> bool:
    return any(
        {_MARK, source, to, port + to_port} <= rule.compared
        for source, port, to, to_port in connection.directions
    )
