"""Connections of whom nobody knows yet who they are: a few at a time, and none in others' way."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: at once, each with a thread of ours
MOST = 16


class Strangers:
    """Who has connected and not shown yet that it is the one who is waited for.

    When there is no room for one more, one is let go: of the address that most of them are from,
    the oldest. So whoever floods a port from one address keeps nobody out but itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: their addresses, in the order in which they came
        self._there: dict[socket.socket, str] = {}

    @contextmanager
    def admitted(self, raw: socket.socket, address: str) -> Iterator[None]:
        """While *raw*, which comes from *address*, shows who it is; it may be shut down meanwhile.

        Raises OSError.
        """
        with raw.dup() as connection:  # to be ended by, also when TLS has taken over *raw*
            self._admit(connection, address)
            try:
                yield
            finally:
                with self._lock:
                    self._there.pop(connection, None)

    def _admit(self, connection: socket.socket, address: str) -> None:
        with self._lock:
            self._there[connection] = address
            if len(self._there) > MOST:
                [(crowd, _)] = Counter(self._there.values()).most_common(1)
                oldest = next(each for each, of in self._there.items() if of == crowd)
                del self._there[oldest]
                with suppress(OSError):  # it has gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
