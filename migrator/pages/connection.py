"""The connection between `migrator lazy-pages` and `migrator page-server`, on both ends.

TCP, with TLS inside unless it is told otherwise. The client says first, in one line, for which
images it wants pages; the server answers with one line, `ok` or why not; runtime.memory.lazy's
page protocol follows.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from migrator.errors import ProtocolError, UsageProblem

HANDSHAKE_TIMEOUT_S = 5.0
_GREETING = "migrator-pages 1"
_AGREED = "ok"
_MAX_LINE = 1024
# A peer that is cut off is noticed after that long, whether we wait for it or it for us (tcp(7)).
_LOST_AFTER_S = 10
_PROBE_S = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where a page server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `10.0.0.1:4711`, `[fd00::1]:4711` or `name:4711`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not host or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        if not port.isdecimal() or int(port) > 0xFFFF:
            raise ValueError(f"{port!r} is no port")
        return cls(host[1:-1] if bracketed else host, int(port))

    @property
    def is_local(self) -> bool:
        """Whether nobody but this host can be at the other end."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files, all PEM: our certificate and its key, and whoever signed the peer's."""

    certificate: Path
    key: Path
    authority: Path
    check_name: bool = True  # the client's: the certificate names the address that it connects to

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Both sides show a certificate. Raises UsageProblem, naming the file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = self.check_name and not server
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ValueError) as error:
            raise UsageProblem(f"{self.authority}: no certificates of a CA: {error}") from error
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise UsageProblem(
                f"{self.certificate}: no certificate of the key {self.key}: {error}"
            ) from error
        return context


class PlainStream:
    """A socket with the ways of a TLS stream, where there is none."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.fileno, self.close = raw.fileno, raw.close
        self.settimeout, self.setblocking = raw.settimeout, raw.setblocking
        self.sendall = raw.sendall

    def pending(self) -> int:
        """Nothing has been read ahead."""
        return 0

    def recv(self, size: int) -> bytes:
        """As ssl.SSLSocket has it."""
        try:
            return self._raw.recv(size)
        except BlockingIOError as error:
            raise ssl.SSLWantReadError from error

    def send(self, data: bytes | bytearray) -> int:
        """As ssl.SSLSocket has it."""
        try:
            return self._raw.send(data)
        except BlockingIOError as error:
            raise ssl.SSLWantWriteError from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Stream = ssl.SSLSocket | PlainStream


def opened(
    raw: socket.socket,
    context: ssl.SSLContext | None,
    *,
    server_side: bool,
    name: str | None = None,
) -> Stream:
    """The stream over a new connection; *raw* is its own from now on. Raises OSError."""
    try:
        raw.settimeout(HANDSHAKE_TIMEOUT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST_AFTER_S * 1000)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        if context is None:
            return PlainStream(raw)
        return context.wrap_socket(raw, server_side=server_side, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def ask_for(stream: Stream, identity: str) -> str | None:
    """The client's first words; why the server refuses, None when it serves. Raises OSError."""
    stream.sendall(f"{_GREETING} {identity}\n".encode())
    answer = _line(stream)
    stream.settimeout(None)
    return None if answer == _AGREED else answer


def agree(stream: Stream, identity: str) -> None:
    """The server's: tell the client whether it serves it. Raises ProtocolError, OSError."""
    greeting, _, wanted = _line(stream).rpartition(" ")
    why = ""
    if greeting != _GREETING:
        why = "it speaks another version: is the same migrator installed on both hosts?"
    elif wanted != identity:
        why = "its images are others than yours: copy them again, all but pages-*.img"
    stream.sendall(f"{why or _AGREED}\n".encode())
    if why:
        raise ProtocolError("a client", f"another greeting than is expected here ({why})")
    stream.settimeout(None)


def has_something(stream: Stream) -> bool:
    """Whether it can be read from at once."""
    if stream.pending():
        return True
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _line(stream: Stream) -> str:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte or len(line) > _MAX_LINE:
            raise ConnectionResetError("it ended before a word was said")
        line += byte
    return line[:-1].decode(errors="replace")
