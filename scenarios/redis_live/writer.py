"""The client of the story: fills Redis, then writes numbered values over one connection.

Run as a script in the client host, standard library only: it must wake up on time. Writes are
paced, one at a time: the next is sent when its millisecond has come and the last one was
acknowledged. The end of standard input ends the writing; then everything is read back over the same
connection and compared. Says on standard output, one JSON object a line, where it has got to.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

FILL_VALUE_BYTES = 1024
POOL_BYTES = 16 << 20  # further apart than a compressor looks back
PATIENCE_S = 300.0  # 4 GiB by stop-and-copy: a minute without an answer
BATCH = 512
_ECHO = b"*2\r\n$4\r\nECHO\r\n$12\r\nend of batch\r\n"
_ECHOED = b"$12\r\nend of batch\r\n"


class Connection:
    """One TCP connection that speaks RESP, the Redis protocol."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""

    def send(self, *commands: bytes) -> None:
        self.socket.sendall(b"".join(commands))

    def ask(self, batches: Iterable[tuple[list[bytes], bytes]]) -> Iterator[bool]:
        """For each batch (commands, their replies as one piece): does Redis answer like that?

        Where it does not, the replies are still to be read. Each batch is on its way before the
        answers to the last one are read.
        """
        waiting = b""
        for commands, replies in batches:
            self.send(*commands, _ECHO)
            if waiting:
                yield self._answered(waiting)
            waiting = replies + _ECHOED
        if waiting:
            yield self._answered(waiting)

    def _answered(self, expected: bytes) -> bool:
        while (end := self._pending.find(_ECHOED)) < 0:
            self._receive()
        as_expected = self._pending[: end + len(_ECHOED)] == expected
        if as_expected:
            self._pending = self._pending[len(expected) :]
        return as_expected

    def reply(self) -> bytes | None:
        """The next reply: a status line with its sign, or a bulk string; None is Redis' nil."""
        line = self._take_until(b"\r\n")
        if not line.startswith(b"$"):
            return line
        length = int(line[1:])
        return None if length < 0 else self._take(length + 2)[:-2]

    def _take_until(self, end: bytes) -> bytes:
        while (found := self._pending.find(end)) < 0:
            self._receive()
        taken, self._pending = self._pending[:found], self._pending[found + len(end) :]
        return taken

    def _take(self, length: int) -> bytes:
        while len(self._pending) < length:
            self._receive()
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def _receive(self) -> None:
        received = self.socket.recv(1 << 20)
        if not received:
            raise ConnectionError("redis closed the connection")
        self._pending += received


def set_command(key: bytes, value: bytes) -> bytes:
    """SET as Redis reads it."""
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)


def get_command(key: bytes) -> bytes:
    """GET as Redis reads it."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key)


def bulk(value: bytes) -> bytes:
    """A value as Redis writes it."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


@cache
def _pool() -> bytes:
    return hashlib.shake_128(b"fill").digest(POOL_BYTES + FILL_VALUE_BYTES)


def fill_pair(number: int) -> tuple[bytes, bytes]:
    """Key and value of the *number*th key that was there before.

    No value is another one's, and none compresses.
    """
    begin = number * FILL_VALUE_BYTES % POOL_BYTES
    return b"fill:%d" % number, b"%016d" % number + _pool()[begin + 16 : begin + FILL_VALUE_BYTES]


def written_pair(number: int) -> tuple[bytes, bytes]:
    """Key and value of the *number*th write."""
    return b"write:%d" % number, b"value %d" % number


def fill(connection: Connection, count: int) -> None:
    """Set so many keys."""
    batches = (
        ([set_command(*fill_pair(number)) for number in batch], b"+OK\r\n" * len(batch))
        for batch in _batches(count)
    )
    for as_expected in connection.ask(batches):
        if not as_expected:
            raise ConnectionError(f"redis answered {connection.reply()!r} to SET")


class Writer:
    """Writes numbered values at a pace; keeps when each was sent and acknowledged, in ns."""

    def __init__(self, connection: Connection, interval_s: float) -> None:
        self.connection = connection
        self.interval_s = interval_s
        self.sent_ns: list[int] = []
        self.acknowledged_ns: list[int] = []
        self.late_s = 0.0

    def run(self) -> None:
        """Write until standard input says something."""
        due = time.monotonic()
        while not _asked_to_stop(due - time.monotonic()):
            self.late_s = max(self.late_s, time.monotonic() - due)
            self._write(len(self.sent_ns))
            due = max(due + self.interval_s, time.monotonic())

    def _write(self, number: int) -> None:
        self.sent_ns.append(time.monotonic_ns())
        self.connection.send(set_command(*written_pair(number)))
        if (answer := self.connection.reply()) != b"+OK":
            raise ConnectionError(f"redis answered {answer!r} to write {number}")
        self.acknowledged_ns.append(time.monotonic_ns())


def _asked_to_stop(wait_s: float) -> bool:
    """Wait so long for a word on standard input; select(2) keeps time to some 0.1 ms."""
    return bool(select.select([sys.stdin], [], [], max(wait_s, 0.0))[0])


def longest_silence(acknowledged_ns: list[int]) -> tuple[float, int]:
    """Longest time between two answers in ms, and how many answers came before it."""
    gaps = [b - a for a, b in pairwise(acknowledged_ns)]
    longest = max(gaps, default=0)
    return longest / 1e6, gaps.index(longest) + 1 if gaps else 0


def missing(
    connection: Connection, pair_of: Callable[[int], tuple[bytes, bytes]], count: int
) -> list[str]:
    """The keys among the first *count* whose value is not there or another."""
    wrong = []
    for batch, as_expected in zip(
        _batches(count),
        connection.ask(_gets(map(pair_of, batch)) for batch in _batches(count)),
        strict=True,
    ):
        if not as_expected:
            pairs = map(pair_of, batch)
            wrong += [key.decode() for key, value in pairs if connection.reply() != value]
            connection.reply()  # the end of the batch
    return wrong


def _gets(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], bytes]:
    keys, values = zip(*pairs, strict=True)
    return list(map(get_command, keys)), b"".join(map(bulk, values))


def _batches(count: int) -> Iterator[range]:
    return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def say(event: str, **details: object) -> None:
    """One line for whoever started us."""
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


@contextmanager
def waking_up_on_time() -> Iterator[None]:
    """At real-time priority, where that is granted: our own delay must not look like a silence."""
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        os.nice(-10)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--fill-mib", type=int, default=64)
    parser.add_argument("--per-second", type=int, default=1000)
    options = parser.parse_args()
    fill_count = options.fill_mib * (1 << 20) // FILL_VALUE_BYTES
    connection = Connection(options.host, options.port)
    say("connected", pid=os.getpid())
    fill(connection, fill_count)
    say("filled", keys=fill_count)
    writer, broken = Writer(connection, 1 / options.per_second), ""
    try:
        with waking_up_on_time():
            writer.run()
        acknowledged = len(writer.acknowledged_ns)
        lost = missing(connection, written_pair, acknowledged)
        lost += missing(connection, fill_pair, fill_count)
    except OSError as error:
        broken, lost = str(error) or type(error).__name__, []
    silence_ms, before = longest_silence(writer.acknowledged_ns)
    say(
        "result",
        broken=broken,
        silence_ms=silence_ms,
        silent_after=before,
        sent=len(writer.sent_ns),
        acknowledged=len(writer.acknowledged_ns),
        compared=0 if broken else len(writer.acknowledged_ns) + fill_count,
        lost=lost,
        late_ms=writer.late_s * 1e3,
    )


if __name__ == "__main__":
    main()
