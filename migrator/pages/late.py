"""Post-copy at its destination: a container whose pages come from its source, once it runs.

The server that waits for them outlives the agent: whoever is sent by the source finds it by the
directory of the images, which stays until all is there. Its last word lies there too.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from criu_rpc.logger import Logger
from migrator import messages as m
from migrator import processes
from migrator.arrival import WORK, Served, lazy_runs
from migrator.dataplane import Listener, pump
from migrator.errors import MigrationError, ProtocolError
from migrator.journal import DESTINATION, Journal, open_journal, peek
from migrator.messages import Filled
from migrator.tls import Credentials
from runtime.memory.lazy.launch import LazyPages, is_served
from runtime.memory.lazy.remote_pages import NAME
from runtime.socket_path import connect
from runtime.state import check_id

logger = Logger(__name__)

#: what the server leaves when it ends: empty, or why the container had to end with it
LAST_WORD = "last-word"
#: a former agent ends by itself within that time, or is ended
FORMER_AGENT_S = 10.0


class LateArrival(Served):
    """One container's pages, which are not here yet."""

    def __init__(self, images_dir: Path, give_up_after_s: float | None) -> None:
        """give_up_after_s: the container is ended when its source stays away so long."""
        super().__init__(images_dir)
        self._give_up_after_s = give_up_after_s

    def receive(self, stream: ssl.SSLSocket) -> None:
        """Hand the source's stream on to the server, until one of them ends it."""
        try:
            relay(stream, self._images_dir)
        finally:
            self._lost.set()  # before it runs; then its source may come back

    def arm(self, hot: Sequence[Sequence[int]]) -> None:
        """Start the server; nothing is known to be hot."""
        plan = {
            "kind": "remote",
            "give_up_after_s": self._give_up_after_s,
            "last_word": str(self.work_dir / LAST_WORD),
        }
        self._server = LazyPages.start(self.work_dir, plan, discard=True)

    def expect(self, spaces: Mapping[str, int]) -> None:
        """The images are here: what each process is to be given. Raises BadImages, ValueError."""
        self._load(*lazy_runs(self._images_dir, spaces), {})

    def fill(self) -> Filled:
        """Wait until every page is in its place."""
        assert self._server is not None
        self._server.wait()
        return self._filled()


def relay(stream: ssl.SSLSocket, images_dir: Path) -> None:
    """Carry bytes between the source and the server that waits for it. Raises OSError, PeerLost."""
    with connect(images_dir / WORK / NAME) as server:
        pump(stream, server.fileno(), server.fileno())


def fate(images_dir: Path) -> str:
    """What the files tell: "waiting" for the source, "filled", "lost"; "none": nothing is late."""
    work = images_dir / WORK
    with suppress(FileNotFoundError):
        return "lost" if (work / LAST_WORD).read_text() else "filled"
    return "waiting" if (work / NAME).exists() else "none"


class Attachment:
    """A way from a source that has lost its agent to the server that waits for it."""

    def __init__(self, root: Path, request: m.Attach, journal: Journal | None) -> None:
        """journal: this agent's own, when it is the first still. Raises UsageProblem.

        Any other agent of this migration has lost its source: it ends, or is ended.
        """
        check_id(request.container)
        self._request = request
        self._own = None if journal else _journal_of(root, request)
        self._journal = journal or self._own
        self._listener: Listener | None = None

    def answer(self, address: str) -> m.Attached:
        """What state the pages are in; opens the way on *address* when some are missing."""
        prepared = self._journal and self._journal.last("prepared")
        if not prepared or prepared.data.get("migration") != self._request.migration:
            return _attached("lost", "nothing is known of it there any more")
        images_dir = Path(prepared.data["images_dir"])
        if self._journal and self._journal.has("filled"):
            return _attached("complete", "")
        if fate(images_dir) != "waiting":
            return _attached(*_last_word(images_dir))
        if not is_served(images_dir / WORK):
            return self._end_it(images_dir)
        credentials = Credentials.make()
        context = credentials.context(self._request.certificate, server=True)
        self._listener = Listener(address, context, _serve(images_dir))
        return m.Attached("waiting", "", address, self._listener.port, credentials.certificate)

    def _end_it(self, images_dir: Path) -> m.Attached:
        """Nobody serves it: whatever it reads of the pages that were missing is zeros."""
        if fate(images_dir) != "waiting":  # it has come to its end meanwhile
            return _attached(*_last_word(images_dir))
        assert self._journal is not None
        if restored := self._journal.last("restored"):
            processes.kill(*restored.data["init"])
        why = "both processes that waited for its pages were killed, and it with them"
        (images_dir / WORK / LAST_WORD).write_text(why)
        return _attached("lost", why)

    def close(self) -> None:
        """Nothing comes this way any more; the server waits on."""
        if self._listener is not None:
            self._listener.close()
        if self._own is not None:
            self._own.close()


def _journal_of(root: Path, request: m.Attach) -> Journal:
    entries = peek(root, request.container, DESTINATION)
    first = next((entry for entry in entries if entry.step == "prepared"), None)
    if first is not None and first.data.get("migration") == request.migration:
        pid, start_time = first.data["agent"]
        with suppress(MigrationError):
            processes.await_death(pid, start_time, FORMER_AGENT_S)
        processes.kill(pid, start_time)
    return open_journal(root, request.container, DESTINATION, wait_s=processes.DEATH_TIMEOUT_S)


def _last_word(images_dir: Path) -> tuple[str, str]:
    try:
        why = (images_dir / WORK / LAST_WORD).read_text()
    except FileNotFoundError:
        return "lost", "the server of its pages left no word"
    return ("lost", why) if why else ("complete", "")


def _attached(state: str, why: str) -> m.Attached:
    return m.Attached(state, why, "", 0, "")


def _serve(images_dir: Path) -> Callable[[dict[str, Any], ssl.SSLSocket], None]:
    def serve(header: dict[str, Any], stream: ssl.SSLSocket) -> None:
        if header.get("stream") != "lazy":
            raise ProtocolError("the source", f"a stream of {header.get('stream')!r}")
        relay(stream, images_dir)

    return serve
