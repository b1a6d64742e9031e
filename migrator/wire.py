"""Bytes between source and agent: framed, versioned, typed messages over any two byte streams.

A frame is a big-endian u32 length and that many bytes of JSON: an object with ``type`` (the
message's class name) and its fields. Both ends treat the other as hostile: a frame over MAX_FRAME,
an unknown type, a missing, unknown or ill-typed field is a ProtocolError, never a guess. Messages
themselves are in messages.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from migrator import messages
from migrator.errors import PeerLost, ProtocolError

#: to be raised where a message, or what is said on the data plane, means something else than before
REVISION = 2
#: the source says Ping this often; an agent that hears nothing for SILENCE_S takes it for gone
PING_S = 1.0
SILENCE_S = 8.0
POLL_S = 0.1
MAX_FRAME = 16 << 20
_HEADER = struct.Struct(">I")


def protocol_of(registry: Mapping[str, type[Any]]) -> int:
    """What two ends must have in common: another number for each other set of fields."""
    fields = {name: cls.__annotations__ for name, cls in registry.items()}
    return REVISION << 32 | zlib.crc32(json.dumps(fields, sort_keys=True).encode())


PROTOCOL = protocol_of(messages.REGISTRY)

M = TypeVar("M")


class ByteStream(Protocol):
    """What a channel runs on: a pair of pipes, an SSH channel."""

    def read(self, size: int) -> bytes:
        """Up to *size* bytes; b"" at the stream's end; TimeoutError when nothing came in time."""

    def write(self, data: bytes) -> None:
        """All of *data*, or OSError."""

    def set_timeout(self, seconds: float | None) -> None:
        """How long read() waits for the first byte."""

    def close(self) -> None: ...


class PipeStream:
    """Two descriptors, standard input and output of an agent, as a ByteStream."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._timeout: float | None = None

    def read(self, size: int) -> bytes:
        if not select.select([self._read_fd], [], [], self._timeout)[0]:
            raise TimeoutError
        return os.read(self._read_fd, size)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]

    def set_timeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def close(self) -> None:
        os.close(self._write_fd)


class Channel:
    """Messages over a byte stream. One thread reads; any thread may send."""

    def __init__(self, stream: ByteStream, *, peer: str) -> None:
        self.peer = peer
        self._stream = stream
        self._buffer = bytearray()
        self._send_lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send *message*. Raises PeerLost when the stream is broken."""
        body = encode(message)
        try:
            with self._send_lock:
                self._stream.write(_HEADER.pack(len(body)) + body)
        except (OSError, EOFError) as error:
            raise PeerLost(self.peer, f"cannot send {type(message).__name__}: {error}") from error

    def receive(
        self, *, timeout_s: float | None = None, alive: Callable[[], None] | None = None
    ) -> object:
        """The next message that is no Ping.

        timeout_s: PeerLost after that long without it. alive: called about ten times a second while
        waiting; what it raises ends the wait (how a holder notices that its CRIU died). Raises
        PeerLost at the end of the stream, ProtocolError on anything that is not a message.
        """
        while True:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            header = self._take(_HEADER.size, deadline, alive)
            (length,) = _HEADER.unpack(header)
            if length > MAX_FRAME:
                raise ProtocolError(self.peer, _no_header(header))
            message = decode(self._take(length, deadline, alive), peer=self.peer)
            if not isinstance(message, messages.Ping):
                return message

    def close(self) -> None:
        self._stream.close()

    def _take(self, size: int, deadline: float | None, alive: Callable[[], None] | None) -> bytes:
        while len(self._buffer) < size:
            if alive is not None:
                alive()
            if deadline is not None and time.monotonic() >= deadline:
                raise PeerLost(self.peer, "no answer in time")
            self._stream.set_timeout(POLL_S if alive or deadline is not None else None)
            try:
                data = self._stream.read(1 << 16)
            except TimeoutError:
                continue
            except (OSError, EOFError) as error:
                raise PeerLost(self.peer, str(error)) from error
            if not data:
                raise PeerLost(self.peer, "the connection was closed")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def encode(message: object) -> bytes:
    """The JSON of one message of messages.py."""
    fields = dataclasses.asdict(message)  # type: ignore[call-overload]
    return json.dumps({"type": type(message).__name__, **fields}, separators=(",", ":")).encode()


def decode(body: bytes, *, peer: str) -> object:
    """The message in *body*, every field checked against its annotation; else ProtocolError."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(peer, f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ProtocolError(peer, f"a message that is no object: {type(fields).__name__}")
    name = fields.pop("type", None)
    cls = messages.REGISTRY.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError(peer, f"a message of unknown type {name!r}")
    return _build(cls, fields, peer)


def _build(cls: type[M], fields: dict[str, Any], peer: str) -> M:
    hints = get_type_hints(cls)
    if unknown := sorted(fields.keys() - hints.keys()):
        raise ProtocolError(peer, f"{cls.__name__} with unknown field {unknown[0]!r}")
    for name, hint in hints.items():
        if name not in fields:
            raise ProtocolError(peer, f"{cls.__name__} without {name!r}")
        if not _fits(fields[name], hint):
            raise ProtocolError(peer, f"{cls.__name__}.{name} is not {hint}: {fields[name]!r:.80}")
    return cls(**fields)


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has the shape of an annotation: str, list[int], dict[str, Any] ..."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    if args:  # a union
        return any(_fits(value, arm) for arm in args)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _no_header(found: bytes) -> str:
    """What came in place of a frame's beginning; most often somebody has a login script speak."""
    if found.isascii() and (text := found.decode()).isprintable():
        return f"text ({text!r} ...), as a login script may print it"
    return f"a frame of {_HEADER.unpack(found)[0]} bytes; the limit is {MAX_FRAME}"
