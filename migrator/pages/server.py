"""`migrator page-server`: the pages of an image directory, for whoever restores it elsewhere.

One thread for each connection: a client that has lost one comes back with the next, before the
server can know. Nothing of a connection is kept.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
from typing import Any

from criu_rpc.logger import Logger
from migrator.errors import ProtocolError
from migrator.pages import connection
from migrator.pages.connection import Address, Stream
from migrator.strangers import Strangers
from runtime.memory.lazy.page_protocol import BrokenProtocol, serve_pages
from runtime.memory.lazy.split_images import StoredPages

logger = Logger(__name__)


class PageServer(socketserver.ThreadingTCPServer):
    """Context manager; `serve_forever` ends when a client has all its pages, unless to `keep`."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    #: who come at once: of more, a connection takes a second to begin
    request_queue_size = socket.SOMAXCONN

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        pages: StoredPages,
        *,
        keep: bool = False,
    ) -> None:
        """Listens; raises OSError. context: None for a stream that all can read."""
        self._context, self._pages, self._keep = context, pages, keep
        self._strangers = Strangers()
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        self.address_family, *_, where = found[0]
        super().__init__(where[:2], socketserver.BaseRequestHandler)  # type: ignore[arg-type]
        self.address = Address(address.host, int(self.server_address[1]))

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its thread."""
        peer = str(Address(*client_address[:2]))
        with self._met(request, client_address[0]) as stream:
            logger.info("serving %s", peer)
            complete = self._serve(stream)
        if complete:
            logger.info("%s has all its pages", peer)
            if not self._keep:
                self.shutdown()

    def _met(self, request: socket.socket, address: str) -> Stream:
        with self._strangers.admitted(request, address):
            stream = connection.opened(request, self._context, server_side=True)
            try:
                connection.agree(stream, self._pages.identity)
            except BaseException:
                stream.close()
                raise
        return stream

    def _serve(self, stream: Stream) -> bool:
        return serve_pages(stream, self._pages.read, lambda: connection.has_something(stream))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection's end is no end of ours."""
        error = sys.exception()
        if not isinstance(error, OSError | BrokenProtocol | ProtocolError):
            raise error or RuntimeError
        logger.warning("lost %s: %s", Address(*client_address[:2]), error)
