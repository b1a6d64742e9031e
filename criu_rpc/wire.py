"""The bytes of the conversation: SOCK_SEQPACKET messages with descriptors, and criu's death.

A process that dies while one of its children holds the socket gives no end-of-file, so the pidfd
is watched beside the socket: waiting ends when criu does. Knows no message type.
"""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

# cr-service.c's answers are some hundred bytes; whatever is longer was not sent by CRIU
MESSAGE_MAX_BYTES = 1 << 20
_FDS_MAX = 16


class PeerGone(Exception):
    """criu has ended, or closed its end: nothing more will come."""


class MessageTooLong(Exception):
    """A message that no CRIU sends."""


@dataclass(frozen=True, slots=True)
class Message:
    """One received message; the descriptors belong to the receiver."""

    data: bytes
    fds: tuple[int, ...] = ()


def send(sock: socket.socket, data: bytes) -> None:
    """Send one message. Raises PeerGone."""
    try:
        sock.send(data, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
        raise PeerGone from error


def receive(sock: socket.socket, pidfd: int) -> Message:
    """The next message, however long it takes. Raises PeerGone, MessageTooLong."""
    _wait_readable(sock, pidfd)
    try:
        size = sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        if size > MESSAGE_MAX_BYTES:
            raise MessageTooLong(f"a message of {size} bytes")
        return _receive_one(sock, size)
    except ConnectionResetError as error:
        raise PeerGone from error


def _wait_readable(sock: socket.socket, pidfd: int) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    ready = {fd for fd, _ in poller.poll()}
    # what criu said before it died counts: the socket goes first
    if sock.fileno() not in ready:
        raise PeerGone


def _receive_one(sock: socket.socket, size: int) -> Message:
    if size == 0:
        raise PeerGone
    data, fds, flags, _ = socket.recv_fds(sock, size, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_CTRUNC:
        close_fds(fds)
        raise MessageTooLong(f"more than {_FDS_MAX} descriptors")
    return Message(data, tuple(fds))


def close_fds(fds: tuple[int, ...] | list[int]) -> None:
    """Close descriptors that were received and not taken."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


@contextlib.contextmanager
def lent(fds: tuple[int, ...]) -> Iterator[None]:
    """The descriptors of a message are open inside the block, and closed after it."""
    try:
        yield
    finally:
        close_fds(fds)
