"""A descriptor that goes from one process to another over a unix socket (SCM_RIGHTS, unix(7)).

By _socket alone, as in runtime.process.parent: a container's init cannot afford more.
"""

from __future__ import annotations

import sys
from _socket import CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket

_INT_BYTES = 4


def send(socket_fd: int, data: bytes, fd: int) -> None:
    """Send *fd* beside *data*, which must not be empty. Raises OSError."""
    end = socket(fileno=socket_fd)
    try:
        rights = (SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(_INT_BYTES, sys.byteorder))
        end.sendmsg([data], [rights])
    finally:
        end.detach()


def receive(socket_fd: int, size: int) -> tuple[bytes, int | None]:
    """At most *size* bytes, and our own descriptor that came beside them; None: there was none.

    Of several the kernel drops all but the first. Raises OSError.
    """
    end = socket(fileno=socket_fd)
    try:
        data, rights, _, _ = end.recvmsg(size, CMSG_LEN(_INT_BYTES), MSG_CMSG_CLOEXEC)
    finally:
        end.detach()
    for level, kind, content in rights:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS) and len(content) == _INT_BYTES:
            return data, int.from_bytes(content, sys.byteorder)
    return data, None
