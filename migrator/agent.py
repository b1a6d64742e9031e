"""The agent: what the source starts over SSH on the destination, for one migration.

No port for control, no daemon: whoever may run commands here over SSH may move containers here.
When the source falls silent before it said Commit, everything of the migration is removed; after
it, it runs on.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from criu_rpc.logger import Logger
from migrator import messages as m
from migrator import preflight
from migrator.errors import PeerLost, ProtocolError
from migrator.guardian import Guardian
from migrator.incoming import Incoming
from migrator.journal import identity
from migrator.pages.late import Attachment
from migrator.report import Recorder
from migrator.settling import fence, forget
from migrator.version import VERSION
from migrator.wire import PROTOCOL, SILENCE_S, Channel, PipeStream
from runtime import SetupFailed
from runtime.oserrors import reason
from runtime.process.terminal import Console

logger = Logger(__name__)


class _Discarded(Exception):
    """The source said Discard while the restored container was held."""

    def __init__(self, request: m.Discard) -> None:
        super().__init__(request.why)
        self.request = request


class Agent:
    """Serves requests until the source says Finish, Discard or nothing any more."""

    def __init__(self, channel: Channel, root: Path, *, criu: str | None) -> None:
        self._channel, self._root, self._criu = channel, root, criu
        self._recorder = Recorder()
        self._incoming: Incoming | None = None
        self._guardian: Guardian | None = None
        self._attachment: Attachment | None = None
        self._console: Console | None = None

    def serve(self) -> int:
        """Answer requests one by one; the exit status."""
        answer: dict[type, Callable[..., object]] = {
            m.Hello: self._hello,
            m.Preflight: self._preflight,
            m.Prepare: self._prepare,
            m.Arm: self._arm,
            m.Restore: self._restore,
            m.Fill: self._fill,
            m.Finish: self._finish,
            m.Discard: self._discard,
            m.Attach: self._attach,
            m.Resolve: lambda r: m.Resolved(fence(self._root, r.container, r.migration)),
        }
        try:
            while True:
                request = self._channel.receive(timeout_s=SILENCE_S)
                if type(request) not in answer:
                    raise ProtocolError("the source", f"{type(request).__name__} out of turn")
                self._channel.send(self._answer(answer[type(request)], request))
        except PeerLost as error:
            logger.info("%s", error)
            return 0
        except ProtocolError as error:
            with suppress(PeerLost):
                self._channel.send(_failed(error))
            raise
        finally:
            self._end()

    def _answer(self, handler: Callable[..., object], request: object) -> object:
        """The handler's answer, or Failed in the handler's error's words; a lost source ends us
        instead.
        """
        try:
            return handler(request)
        except PeerLost:
            raise
        except Exception as error:
            logger.error("%s: %s", type(request).__name__, error, exc_info=logger.debugs)
            return _failed(error)

    def _hello(self, hello: m.Hello) -> m.Welcome:
        machine = f"{this_machine()}:{identity(self._root)}"
        return m.Welcome(PROTOCOL, VERSION, socket.gethostname(), machine)

    def _preflight(self, needs: m.Preflight) -> m.Verdict:
        if uid := os.geteuid():
            why = f"migrator runs as user {uid} there, not as root: log in as root, or give --agent"
            return m.Verdict([f"{why} 'sudo -n migrator'"], lazy_pages=False)
        reasons = preflight.check(needs, self._root, self._criu)
        if needs.console_socket and not reasons:
            reasons += self._reach_console(needs.console_socket)
        lazily = bool(reasons) or preflight.can_fill_lazily(
            self._criu, user_namespace=needs.user_namespace
        )
        return m.Verdict(reasons, lazily)

    def _reach_console(self, path: str) -> list[str]:
        """From now on who listens there waits for this terminal; else why not."""
        console = Console(Path(path))
        try:
            console.connect()
        except SetupFailed as error:
            return [preflight.no_console(path, error.why)]
        self._console = console
        return []

    def _prepare(self, request: m.Prepare) -> m.Prepared:
        if self._incoming is not None:
            raise ProtocolError("the source", "a second Prepare")
        self._incoming = Incoming(self._root, request, criu=self._criu, console=self._console)
        self._guardian = Guardian(self._root, self._incoming.container)
        with self._recorder.phase("prepare"):
            return self._incoming.prepare(_our_address())

    def _arm(self, request: m.Arm) -> m.Armed:
        with self._recorder.phase("arm"):
            return m.Armed(self._current().arm(request))

    def _restore(self, request: m.Restore) -> m.Running | m.Discarded:
        """Restored is said from inside CRIU's hold, and Commit awaited there."""
        incoming, zero = self._current(), self._recorder.now_ms()

        def hold(pid: int) -> None:
            self._recorder.add("restore", zero, self._recorder.now_ms() - zero)
            with self._recorder.phase("held"):
                self._channel.send(m.Restored(pid, self._phases(zero)))
                said = self._channel.receive(timeout_s=SILENCE_S)
                if isinstance(said, m.Discard):
                    raise _Discarded(said)
                if not isinstance(said, m.Commit):
                    raise ProtocolError("the source", f"{type(said).__name__} in place of Commit")
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # told to run: it is not for us to end it
            with self._recorder.phase("run"):
                incoming.run(said.held)

        try:
            container = incoming.restore(request, hold)
        except _Discarded as asked:
            return self._discard(asked.request)
        with self._recorder.phase("running"):
            incoming.running()
        return m.Running(container.state.init_pid, self._phases(zero))

    def _fill(self, _: m.Fill) -> m.Filled:
        with self._recorder.phase("fill"):
            return self._current().fill()

    def _attach(self, request: m.Attach) -> m.Attached:
        if self._attachment is not None:
            self._attachment.close()
        own = self._incoming.journal if self._incoming is not None else None
        self._attachment = Attachment(self._root, request, own)
        return self._attachment.answer(_our_address())

    def _finish(self, request: m.Finish) -> m.Finished:
        with self._recorder.phase("finish"):
            self._end()
            forget(self._root, request.container, request.migration)
        return m.Finished()

    def _discard(self, request: m.Discard) -> m.Discarded:
        logger.info("the source discards the migration: %s", request.why)
        self._end()
        return m.Discarded()

    def _end(self) -> None:
        """Leave nothing behind but a container that runs."""
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            if incoming.journal.has("running"):
                incoming.close()
            else:
                incoming.discard()
            incoming.journal.close()
        if self._console is not None:
            self._console.close()
        if self._guardian is not None:
            self._guardian.release()
            self._guardian = None

    def _current(self) -> Incoming:
        if self._incoming is None:
            raise ProtocolError("the source", "a request before Prepare")
        return self._incoming

    def _phases(self, zero: float) -> list[list[object]]:
        """What was timed since the last answer: name, start (from *zero* on) and duration in ms."""
        timed, self._recorder.phases = self._recorder.phases, []
        return [[p.name, p.start_ms - zero, p.duration_ms] for p in timed if p.start_ms >= zero]


def _failed(error: Exception) -> m.Failed:
    words = reason(error) if isinstance(error, OSError) else str(error)
    return m.Failed(type(error).__name__, words or type(error).__name__)


def serve_stdio(root: Path, *, criu: str | None) -> int:
    """`migrator agent`: stdout belongs to the wire, so nothing else may write to it."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    return Agent(Channel(PipeStream(read_fd, write_fd), peer="the source"), root, criu=criu).serve()


def this_machine() -> str:
    """machine-id(5), the kernel's boot id and the host's name.

    Another machine of the same name, or this one after a reboot, cannot know what became of a
    container. Nor can one that has lost its records since (journal.identity).
    """
    parts = []
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            parts.append(Path(path).read_text().strip())
        except OSError:
            parts.append("")
    return ":".join([*parts, socket.gethostname()])


def _terminated(number: int, _: object) -> NoReturn:
    raise PeerLost("the source", f"ended by {signal.Signals(number).name}")


def _our_address() -> str:
    """The address that sshd was reached by: the data plane listens on no other."""
    fields = os.environ.get("SSH_CONNECTION", "").split()
    return fields[2] if len(fields) == 4 else "127.0.0.1"
