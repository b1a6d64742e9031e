"""The memory of a frozen container, served until the destination has all of it.

After the commit of a post-copy the container runs at the destination, and what it has not touched
yet is here. The migration serves it, and `migrator resolve` when that has died: the container's
cgroup is frozen, so that its memory neither changes nor ends with any of us. A lost connection
ends nothing: whoever waits there for a page waits until we are back.
"""

from __future__ import annotations

import errno
import os
import select
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from criu_rpc.logger import Logger
from migrator.bandwidth import Limiter
from migrator.destination import AgentFailed, DestinationAgent
from migrator.errors import (
    CopyLost,
    DestinationUnreachable,
    MigrationError,
    PagesLost,
    PeerLost,
    StillNeeded,
)
from migrator.plan import Destination
from runtime.memory.lazy.page_protocol import BrokenProtocol, PagesGone, serve_pages
from runtime.state import is_alive

logger = Logger(__name__)

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RETRY_S = 0.5
#: beyond the time after which the destination gives up: until it is sure to have done so
GRACE_S = 15.0


class FrozenSpaces:
    """The memory of processes that stand still; a process's space bears its pid as number."""

    def __init__(self, processes: Iterable[tuple[int, int]]) -> None:
        """processes: pid and start time of each. Raises OSError."""
        self._files: dict[int, int] = {}
        #: those that have ended, though they were frozen here
        self.gone: set[int] = set()
        try:
            for pid, start_time in processes:
                self._open(pid, start_time)
        except BaseException:
            self.close()
            raise

    def _open(self, pid: int, start_time: int) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            self._files[pid] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        if not is_alive(pid, start_time):
            self.gone.add(pid)

    def read(self, space: int, start: int, end: int) -> bytes:
        """These bytes. Raises PagesGone, BrokenProtocol; OSError: they may be read later."""
        if space in self.gone:
            raise _gone(space)
        try:
            data = os.pread(self._files[space], end - start, start)
        except (KeyError, OverflowError):
            raise BrokenProtocol(f"a question for {start:#x} of process {space}") from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if len(data) != end - start:
            raise _gone(space)
        return data

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()


def _gone(pid: int) -> PagesGone:
    return PagesGone(f"the memory of process {pid} is gone, though it was frozen at the source")


@dataclass(slots=True)
class Sent:
    """What went over all streams together; read_pages: also those that were zeros."""

    bytes: int = 0
    data_pages: int = 0
    read_pages: int = 0


class _Stream:
    """A stream that keeps to a limit, and counts."""

    def __init__(self, stream: ssl.SSLSocket, limiter: Limiter, sent: Sent) -> None:
        self._stream, self._limiter, self._sent = stream, limiter, sent

    def recv(self, size: int, /) -> bytes:
        return self._stream.recv(size)

    def sendall(self, data: bytes | memoryview, /) -> None:
        for piece in self._limiter.pieces(memoryview(data)):
            self._stream.sendall(piece)
        self._sent.bytes += len(data)
        self._sent.data_pages += len(data) // PAGE_BYTES

    def settimeout(self, seconds: float, /) -> None:
        self._stream.settimeout(seconds)

    def waiting(self) -> bool:
        return bool(self._stream.pending() or select.select([self._stream], [], [], 0)[0])


class Serving:
    """Answers from frozen memory, over one stream after the other."""

    def __init__(self, memory: FrozenSpaces, limiter: Limiter) -> None:
        self.sent = Sent()
        self._memory, self._limiter = memory, limiter

    def over(self, stream: ssl.SSLSocket) -> bool:
        """Serve *stream* and close it: True when the destination has all, False when it was lost.

        Raises PagesGone, which the destination was told.
        """
        counted = _Stream(stream, self._limiter, self.sent)
        try:
            with stream:
                return serve_pages(counted, self._read, counted.waiting)
        except (OSError, ValueError, BrokenProtocol) as error:
            logger.info("the stream of pages was lost: %s", error)
            return False

    def until_complete(
        self, link: Link, *, patience_s: float | None, check: Callable[[], None]
    ) -> None:
        """Serve over a stream of *link*, and the next when it is lost, until the destination has
        all.

        patience_s: StillNeeded says that it was not reached for so long; None: never. check: called
        between the attempts. Raises CopyLost when it does not run there any more, PagesLost when
        it has ended there for want of what is gone here.
        """
        lost_at = time.monotonic()
        while True:
            check()
            try:
                stream = link.open()
                if stream is None or self.over(stream):
                    return
                lost_at = time.monotonic()
            except PagesGone as error:
                raise link.pages_lost(error) from error
            except (DestinationUnreachable, PeerLost, AgentFailed, OSError) as error:
                logger.info("%s is not there: %s", link.destination, error)
                if patience_s is not None and time.monotonic() - lost_at > patience_s:
                    raise StillNeeded(link.container, str(link.destination), str(error)) from error
            time.sleep(RETRY_S)

    def _read(self, space: int, start: int, end: int) -> bytes:
        data = self._memory.read(space, start, end)
        self.sent.read_pages += len(data) // PAGE_BYTES
        return data


class Link:
    """The way to whoever waits for pages at the destination, made anew when it is lost."""

    def __init__(
        self,
        destination: Destination,
        machine: str,
        *,
        migration: str,
        container: str,
        agent: DestinationAgent | None = None,
    ) -> None:
        """machine: the only one that is believed; agent: a conversation that stands, ours now."""
        self.destination, self.container, self.agent = destination, container, agent
        self._machine, self._migration = machine, migration

    def open(self) -> ssl.SSLSocket | None:
        """A stream to serve; None: it has all that it needs.

        Raises CopyLost; DestinationUnreachable, PeerLost, AgentFailed: try again.
        """
        agent = self._connected()
        attached = agent.attach(migration=self._migration, container=self.container)
        if attached.state == "complete":
            return None
        if attached.state != "waiting":
            raise CopyLost(self.container, str(self.destination), attached.why)
        return agent.open_stream("lazy")

    def pages_lost(self, why: PagesGone) -> PagesLost:
        """What it means that the memory here is gone."""
        return PagesLost(self.container, str(self.destination), str(why))

    def finish(self) -> None:
        """Tell it, if it can be told, that nobody will ask for anything here any more."""
        if self.agent is not None:
            with suppress(MigrationError):
                self.agent.finish(migration=self._migration, container=self.container)

    def close(self) -> None:
        if self.agent is not None:
            self.agent.close()

    def _connected(self) -> DestinationAgent:
        if self.agent is not None:
            try:
                self.agent.ensure_answers()
            except MigrationError:
                self.agent.close()
            else:
                return self.agent
        self.agent = None
        agent = DestinationAgent.open(self.destination)
        try:
            agent.ensure_is(self._machine)
        except MigrationError as error:
            agent.close()
            raise CopyLost(self.container, str(self.destination), str(error)) from error
        self.agent = agent
        return agent
