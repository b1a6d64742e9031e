"""`migrator lazy-pages --page-server`: from the connection to a page server to those who wait.

A lost connection ends nothing: it is made anew, and whoever waits for a page waits until then. The
lazy-pages server outlives the command too: the next one in the same directory connects it again.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from criu_rpc.logger import Logger
from migrator.dataplane import pump
from migrator.errors import PeerLost, UsageProblem
from migrator.pages import connection
from migrator.pages.connection import HANDSHAKE_TIMEOUT_S, Address, Stream
from runtime.memory.lazy.brought_files import BroughtFiles
from runtime.memory.lazy.launch import LazyPagesFailed
from runtime.memory.lazy.page_protocol import BrokenProtocol
from runtime.memory.lazy.remote_pages import NAME
from runtime.socket_path import connect

logger = Logger(__name__)

#: what a server leaves in its directory when it ends: nothing, or why what it served had to end
LAST_WORD = "lazy-pages.end"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0

#: pauses for as long; True when there is nothing left to wait for
Pause = Callable[[float], bool]


class Link:
    """The way to a page server, made anew when it is lost."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        identity: str,
    ) -> None:
        """identity: of the images that pages are wanted for."""
        self.address = address
        self._context, self._identity = context, identity

    def open(self, pause: Pause, give_up_after_s: float | None) -> Stream | None:
        """A stream that the server answers on; None when *pause* ends the waiting for one.

        Raises PeerLost when it was given up, UsageProblem when the server refuses us.
        """
        lost_at, pause_s, said = time.monotonic(), FIRST_PAUSE_S, ""
        while True:
            try:
                return self._connected()
            except (OSError, BrokenProtocol) as error:
                said = self._say(error, said)
                lost_s = time.monotonic() - lost_at
                if give_up_after_s is not None and lost_s > give_up_after_s:
                    raise PeerLost(f"the page server {self.address}", str(error)) from error
            if pause(pause_s):
                return None
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _connected(self) -> Stream:
        where = self.address.host, self.address.port
        raw = socket.create_connection(where, timeout=HANDSHAKE_TIMEOUT_S)
        try:
            stream = connection.opened(raw, self._context, server_side=False, name=where[0])
            with _closed_unless_returned(stream):
                why = connection.ask_for(stream, self._identity)
                if why is not None:
                    raise UsageProblem(f"page server {self.address} refuses: {why}")
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLEOFError):  # cut, by whomever
                raise
            raise UsageProblem(
                f"page server {self.address}: no trust between its certificate and ours: {error}"
            ) from error
        return stream

    def _say(self, error: Exception, said: str) -> str:
        text = f"page server {self.address}: {error}"
        if text != said:
            logger.warning("%s: trying again", text)
        return text


@contextmanager
def _closed_unless_returned(stream: Stream) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stream.close()
        raise


def bring(link: Link, files: BroughtFiles, give_up_after_s: float | None) -> None:
    """Fetch what CRIU reads by itself. Raises PeerLost, UsageProblem."""
    while True:
        stream = link.open(sleep, give_up_after_s)
        assert stream is not None
        try:
            with stream:
                files.fetch(stream)
            return
        except (OSError, BrokenProtocol) as error:
            logger.warning("page server %s: %s: trying again", link.address, error)
            time.sleep(FIRST_PAUSE_S)


def carry(link: Link, work_dir: Path, pause: Pause, give_up_after_s: float | None = None) -> None:
    """Connect the lazy-pages server in *work_dir* to *link*, again and again until it has ended.

    give_up_after_s: for who does not own the server, which has patience of its own.

    Raises PeerLost, UsageProblem, and what *pause* raises.
    """
    while (stream := link.open(pause, give_up_after_s)) is not None:
        with stream, suppress(PeerLost):
            try:
                server = connect(work_dir / NAME)
            except (ConnectionRefusedError, FileNotFoundError):
                return
            with server:
                pump(cast(ssl.SSLSocket, stream), server.fileno(), server.fileno())
        if pause(FIRST_PAUSE_S):
            return


def sleep(seconds: float) -> bool:
    """A Pause that ends no waiting."""
    time.sleep(seconds)
    return False


class Survivor:
    """A lazy-pages server whose command has ended: only its last word says how it went."""

    def __init__(self, work_dir: Path) -> None:
        self._word = work_dir / LAST_WORD

    def wait(self, seconds: float) -> bool:
        """A Pause: whether it has ended."""
        time.sleep(seconds)
        return self._word.exists()

    def check(self) -> None:
        """It has ended: raise LazyPagesFailed unless every page was there."""
        try:
            why = self._word.read_text()
        except FileNotFoundError:
            why = "both processes that served were killed: memory of the container is lost"
        self._word.unlink(missing_ok=True)
        if why:
            raise LazyPagesFailed(why)


@contextmanager
def alone(work_dir: Path) -> Iterator[None]:
    """Of all that connect the server in *work_dir*. Raises UsageProblem, OSError."""
    directory = os.open(work_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageProblem(f"{work_dir}: another `migrator lazy-pages` is at work") from error
        yield
    finally:
        os.close(directory)
