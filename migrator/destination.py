"""The agent as the source sees it: one method a request, each with its only right answer."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from criu_rpc.logger import Logger
from migrator import messages as m
from migrator.dataplane import connect
from migrator.errors import DestinationUnreachable, MigrationError, PeerLost, ProtocolError
from migrator.plan import Destination
from migrator.tls import Credentials
from migrator.transport import AgentStream, SshConnection
from migrator.version import VERSION
from migrator.wire import PING_S, PROTOCOL, Channel

logger = Logger(__name__)

A = TypeVar("A")
GREETING_TIMEOUT_S = 30.0
RESOLVE_TIMEOUT_S = 120.0


class AgentFailed(MigrationError):
    """The agent answered that it could not; str() is its own line."""

    def __init__(self, destination: str, kind: str, message: str) -> None:
        super().__init__(f"{destination}: {message}")
        self.kind = kind


class DestinationAgent:
    """A conversation with the agent over one SSH connection. A context manager."""

    def __init__(self, ssh: SshConnection, stream: AgentStream) -> None:
        self.host = str(ssh.destination)
        self._ssh = ssh
        self._stream = stream
        self._channel = Channel(stream, peer=self.host)
        self._credentials: Credentials | None = None
        self._prepared: m.Prepared | None = None
        self._tls: ssl.SSLContext | None = None
        self._unanswered = 0
        self._over = threading.Event()
        self._lost: PeerLost | None = None

    @classmethod
    def open(cls, destination: Destination) -> DestinationAgent:
        """Connect, start the agent there and exchange versions; DestinationUnreachable says why
        not.
        """
        ssh = SshConnection.open(destination)
        try:
            agent = cls(ssh, ssh.start_agent())
            agent._greet()
        except BaseException:
            ssh.close()
            raise
        threading.Thread(target=agent._ping, name="ping", daemon=True).start()
        return agent

    def close(self) -> None:
        """End the conversation: an agent that was not told to commit then discards what it has."""
        self._over.set()
        self._channel.close()
        self._ssh.close()

    def __enter__(self) -> DestinationAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def preflight(self, needs: m.Preflight) -> m.Verdict:
        """Every reason why the container cannot run there, and what the host can do."""
        return self._ask(needs, m.Verdict)

    def prepare(
        self,
        needs: m.Preflight,
        *,
        migration: str,
        shared_bytes: int,
        memory: str,
        give_up_after_s: float | None,
        keep_pages: bool,
        config: str,
    ) -> None:
        """Reserve the id, make the bundle, open the data plane; see messages.Prepare."""
        self._credentials = Credentials.make()
        request = m.Prepare(
            migration=migration,
            container=needs.container,
            bundle=needs.bundle,
            rootfs=needs.rootfs,
            rootfs_mode=needs.rootfs_mode,
            memory_bytes=needs.memory_bytes,
            shared_bytes=shared_bytes,
            memory=memory,
            keep_pages=keep_pages,
            give_up_after_s=give_up_after_s,
            config=config,
            certificate=self._credentials.certificate,
        )
        self._prepared = self._ask(request, m.Prepared)
        self._tls = self._credentials.context(self._prepared.certificate, server=False)

    @property
    def keeps_bytes(self) -> int:
        """How much of given pages is kept there, once it is prepared."""
        assert self._prepared is not None
        return int(self._prepared.keeps_bytes)

    def open_stream(self, kind: str) -> ssl.SSLSocket:
        """A data-plane stream: "rsync", "images", "pages" or "lazy"."""
        assert self._prepared is not None
        assert self._tls is not None
        return connect(
            self._prepared.address,
            self._prepared.port,
            self._tls,
            {"stream": kind},
            self._ssh.forward,
            self._ssh.peer_address(),
        )

    def arm(self, request: m.Arm) -> str:
        """Start CRIU there and make everything that does not need the images."""
        return self._ask(request, m.Armed).network_refused

    def restore(self, request: m.Restore) -> None:
        """Begin to restore; `restored` tells when it is done and held."""
        self._send(request)

    def restored(self, *, alive: Callable[[], None]) -> m.Restored:
        """Wait until it is restored and held, and all its pages are there.

        alive: raises when the source's own part is lost meanwhile.
        """
        return self._expect(m.Restored, timeout_s=m.RESTORE_TIMEOUT_S, alive=alive)

    def commit(self, held: dict[str, Any], *, timeout_s: float) -> m.Running:
        """Tell it to run; PeerLost leaves the outcome open."""
        return self._ask(m.Commit(held), m.Running, timeout_s=timeout_s)

    def fill(self, *, alive: Callable[[], None]) -> m.Filled:
        """Wait until every page is in its place there."""
        return self._ask(m.Fill(), m.Filled, alive=alive)

    def finish(self, *, migration: str, container: str) -> None:
        """The source is gone: forget the migration there too."""
        self._ask(m.Finish(migration, container), m.Finished, timeout_s=GREETING_TIMEOUT_S)

    def discard(self, why: str) -> None:
        """Remove everything of this migration there."""
        while self._unanswered:  # nobody has waited for it
            self._receive(timeout_s=GREETING_TIMEOUT_S, alive=None)
        self._ask(m.Discard(why), m.Discarded, timeout_s=GREETING_TIMEOUT_S)

    def resolve(self, *, migration: str, container: str) -> str:
        """What became of a migration after a crash: "running" or "dead", for good."""
        request = m.Resolve(migration, container)
        return self._ask(request, m.Resolved, timeout_s=RESOLVE_TIMEOUT_S).outcome

    def attach(self, *, migration: str, container: str) -> m.Attached:
        """Find the server that waits for pages there; `open_stream("lazy")` then goes to it."""
        self._credentials = Credentials.make()
        request = m.Attach(migration, container, self._credentials.certificate)
        attached = self._ask(
            request, m.Attached, timeout_s=RESOLVE_TIMEOUT_S, alive=self.ensure_connected
        )
        if attached.state == "waiting":
            self._prepared = m.Prepared(
                attached.address, attached.port, attached.certificate, keeps_bytes=0
            )
            self._tls = self._credentials.context(attached.certificate, server=False)
        return attached

    def _greet(self) -> None:
        try:
            self._send(m.Hello(PROTOCOL, VERSION))
            welcome = self._expect(m.Welcome, timeout_s=GREETING_TIMEOUT_S, alive=None)
        except (PeerLost, ProtocolError, AgentFailed) as error:
            why = self._stream.why_it_ended() if isinstance(error, PeerLost) else str(error)
            raise DestinationUnreachable(why) from error
        self.machine = welcome.machine
        if welcome.protocol != PROTOCOL:
            raise DestinationUnreachable(
                f"{self.host} has another migrator ({welcome.version}) than this host ({VERSION}), "
                "and they do not understand each other: install the same on both"
            )

    def ensure_is(self, machine: str) -> None:
        """Raise MigrationError unless this is the machine, the boot and the records of then."""
        if self.machine != machine:
            raise MigrationError(
                f"{self.host} is another machine, was rebooted or has lost its records since: "
                "it cannot know whether the container ran there"
            )

    def _ask(
        self,
        request: object,
        answer: type[A],
        *,
        timeout_s: float | None = None,
        alive: Callable[[], None] | None = None,
    ) -> A:
        self._send(request)
        return self._expect(answer, timeout_s=timeout_s, alive=alive)

    def _expect(
        self, answer: type[A], *, timeout_s: float | None, alive: Callable[[], None] | None
    ) -> A:
        got = self._receive(timeout_s=timeout_s, alive=alive)
        if isinstance(got, m.Failed):
            raise AgentFailed(self.host, got.kind, got.message)
        if not isinstance(got, answer):
            raise ProtocolError(self.host, f"{type(got).__name__} where {answer.__name__} was due")
        return got

    def _send(self, request: object) -> None:
        self._channel.send(request)
        self._unanswered += 1

    def _receive(self, *, timeout_s: float | None, alive: Callable[[], None] | None) -> object:
        got = self._channel.receive(timeout_s=timeout_s, alive=alive)
        self._unanswered -= 1
        return got

    def ensure_connected(self) -> None:
        """Raise PeerLost when the connection has ended."""
        if self._lost is not None:
            raise self._lost

    def ensure_answers(self) -> None:
        """Raise PeerLost when a request would not reach it."""
        self.ensure_connected()
        self._channel.send(m.Ping())

    def _ping(self) -> None:
        try:
            while not self._over.wait(PING_S):
                self._channel.send(m.Ping())
        except PeerLost as error:
            self._lost = error
