"""The program of a keeper (runtime.memory.keeper): a fresh interpreter with one thread.

It answers one conversation at a time, and says of pages what its tracker finds: what a round has
found is *pending* until a directory is committed that has it, however many conversations that
takes.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.container import Container
from runtime.errors import ContainerError
from runtime.memory.copying import copied
from runtime.memory.runs import Run, union
from runtime.memory.spaces import Space
from runtime.memory.tracker import Scan, Tracker
from runtime.pidfd import init_of
from runtime.process.channel import Channel, ChannelClosed
from runtime.processes import strangers

#: the descriptor that it is started with
LISTENER_FD = 3
#: what it is asked; what it answers when it cannot do it, in a dict with the reason
ROUND, FINAL, COPY, COMMIT, END = "round", "final", "copy", "commit", "end"
FAILED = "failed"


def main(root: str, container_id: str, kind: str) -> None:
    """Serve until told to end, or until the container's init has ended.

    kind: see Tracker.attach; "" for what works.
    """
    if os.fork():
        os._exit(0)
    os.chdir("/")
    container = Container.load(Path(root), container_id)
    with init_of(container.state) as init, socket.socket(fileno=LISTENER_FD) as listener:
        if init is not None:
            Server(container, kind or None, listener, init).run()


class Server:
    """The tracker, and what of its findings is in no directory yet."""

    def __init__(
        self, container: Container, kind: str | None, listener: socket.socket, init_fd: int
    ) -> None:
        self._container, self._kind = container, kind
        self._listener, self._init_fd = listener, init_fd
        self._tracker: Tracker | None = None
        #: token of the directory that all is relative to
        self._base = ""
        self._pending: dict[int, list[Run]] = {}
        self._ending = False

    def run(self) -> None:
        """Serve."""
        try:
            while not self._ending and self._readable(self._listener):
                connection, _ = self._listener.accept()
                with connection, suppress(ChannelClosed, OSError):
                    self._converse(connection)
        finally:
            if self._tracker is not None:
                self._tracker.close()

    def _readable(self, on: socket.socket) -> bool:
        """Wait for *on*; False when init has ended."""
        poll = select.poll()
        poll.register(on, select.POLLIN)
        poll.register(self._init_fd, select.POLLIN)
        return self._init_fd not in dict(poll.poll())

    def _converse(self, connection: socket.socket) -> None:
        channel = Channel(connection.fileno())
        while not self._ending and self._readable(connection):
            request = channel.receive_plan()
            try:
                answer = self._answer(connection, *request)
            except (ContainerError, OSError) as exc:
                answer = {FAILED: str(exc)}
            channel.send_plan(answer)

    def _answer(self, connection: socket.socket, kind: str, *arguments: Any) -> Any:
        match kind, *arguments:
            case "round", base:
                return self._round() if base == self._base else None
            case "final", base:
                known = base == self._base and self._tracker is not None
                return self._final() if known else None
            case "copy", pid, runs:
                _, [fd], _, _ = socket.recv_fds(connection, 1, 1)
                try:
                    return self._copy(pid, runs, fd)
                finally:
                    os.close(fd)
            case "commit", base:
                self._base, self._pending = base, {}
            case ("end",):
                self._end()
        return None

    def _processes(self) -> list[int]:
        """Those that a checkpoint has."""
        pids = self._container.processes()
        apart = strangers(self._container.state.init_pid, pids)
        return [pid for pid in pids if pid not in apart]

    def _round(self) -> dict[int, tuple[list[Run], list[Run]]]:
        if self._tracker is None:
            self._tracker = Tracker.attach(self._processes, kind=self._kind)
        spaces = self._note(self._tracker.scan)
        return {
            space.pid: (self._pending.get(number, []), space.all_of(space.own(space.text())))
            for number, space in spaces.items()
        }

    def _final(self) -> dict[int, list[Run]]:
        assert self._tracker is not None
        spaces = self._note(self._tracker.final)
        return {space.pid: self._pending.get(number, []) for number, space in spaces.items()}

    def _note(self, look: Callable[[], Scan]) -> dict[int, Space]:
        """Add to what is pending; the spaces in which that is."""
        assert self._tracker is not None
        try:
            scan = look()
        except BaseException:  # some is found, and told to nobody: from here on nothing is known
            self._tracker.close()
            self._tracker, self._base, self._pending = None, "", {}
            raise
        for number in scan.gone:
            self._pending.pop(number, None)
        for number, runs in scan.written.items():
            self._pending[number] = union(self._pending.get(number, []), runs)
        return self._tracker.spaces

    def _copy(self, pid: int, runs: list[Run], fd: int) -> list[Run]:
        assert self._tracker is not None
        for space in self._tracker.spaces.values():
            if space.pid == pid:
                return copied(space.read_into, runs, fd)
        return []

    def _end(self) -> None:
        self._ending = True
        self._listener.close()
        if self._tracker is not None:
            self._tracker.close()
