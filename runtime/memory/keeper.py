"""The keeper of a container's tracker: a process that lives on between two commands.

A pre-dump ends, and what was written since has to be known at the next one. So the tracker (a
userfaultfd of each process, mostly) lives in a process of its own, in a session of its own, which
listens on a socket in the container's state directory. It serves one chain of image directories:
each has a token, and what the keeper says is relative to one of them, its *base*. Asked about any
other directory it knows nothing. It ends when it is told to, and with the container's init. When it
is gone, the next pre-dump copies everything: no more is lost.

The caller holds the container's lock.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from runtime.interpreter import command
from runtime.memory.errors import KeeperFailed
from runtime.memory.keeper_main import COMMIT, COPY, END, FAILED, FINAL, LISTENER_FD, ROUND
from runtime.memory.runs import Run
from runtime.process.channel import Channel, ChannelClosed
from runtime.socket_path import connect, short_path

SOCKET = "keeper.sock"

#: a keeper that says nothing for so long while the container stands still counts as gone
_FINAL_WITHIN_S = 10
_ENDED = "the process that does it has ended; give the command again"


class Keeper:
    """A conversation with the keeper; a context manager. Raises KeeperFailed wherever it is gone.

    What was found and not committed when the conversation ends stays to be copied.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._channel = Channel(connection.fileno())

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """The keeper of the container whose state is in *directory*, None if there is none."""
        try:
            return cls(connect(directory / SOCKET))
        except OSError:
            return None

    @classmethod
    def start(cls, directory: Path, *, kind: str = "") -> Self:
        """A new one, in place of the one that may be there; kind: of the tracker, "" for any.

        Raises OSError.
        """
        end(directory)
        with socket.socket(socket.AF_UNIX) as listener:
            os.fchmod(listener.fileno(), 0o600)  # before it has a name
            with short_path(directory / SOCKET) as path:
                listener.bind(path)
            listener.listen()
            _spawn(directory, kind, listener.fileno())
        found = cls.find(directory)
        if found is None:
            raise KeeperFailed(_ENDED)
        return found

    def round(self, base: str) -> dict[int, tuple[list[Run], list[Run]]] | None:
        """For each process, the container running: pages that may differ from what the directory
        *base* and its parents have, and all that are there; of private memory of no file only.

        base: "" for a keeper that is new. None: it knows nothing about *base*.
        """
        found: dict[int, tuple[list[Run], list[Run]]] | None = self._ask(ROUND, base)
        return found

    def final(self, base: str) -> dict[int, list[Run]] | None:
        """As `round`, with all processes standing still; only what may differ."""
        seconds = _FINAL_WITHIN_S.to_bytes(8, sys.byteorder) + bytes(8)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        found: dict[int, list[Run]] | None = self._ask(FINAL, base)
        return found

    def copy(self, pid: int, runs: list[Run], fd: int) -> list[Run]:
        """Write the content of *runs*, one after the other, to *fd*; returns those that were there.

        The container runs: what is written meanwhile is found by the next round.
        """
        copied: list[Run] = self._ask(COPY, pid, runs, give=fd)
        return copied

    def commit(self, base: str) -> None:
        """All that the last round has found is in directory *base* now."""
        self._ask(COMMIT, base)

    def end(self) -> None:
        """End it; returns when no trace of tracking is left."""
        self._ask(END)
        with suppress(OSError):
            self._connection.recv(1)  # it hangs up as it ends

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, *request: Any, give: int | None = None) -> Any:
        try:
            self._channel.send_plan(request)
            if give is not None:
                socket.send_fds(self._connection, [b"\0"], [give])
            answer = self._channel.receive_plan()
        except BlockingIOError as exc:  # SO_RCVTIMEO
            raise KeeperFailed("the process that does it does not answer") from exc
        except (OSError, ChannelClosed) as exc:
            raise KeeperFailed(_ENDED) from exc
        if isinstance(answer, dict) and FAILED in answer:
            raise KeeperFailed(answer[FAILED])
        return answer


def end(directory: Path) -> None:
    """End the keeper of the container whose state is in *directory*, if there is one."""
    if keeper := Keeper.find(directory):
        with keeper, suppress(KeeperFailed):
            keeper.end()
    (directory / SOCKET).unlink(missing_ok=True)


def _spawn(directory: Path, kind: str, listener_fd: int) -> None:
    """Start it, as nobody's child: it is ours no more when we end, and no zombie when it does."""
    where = (str(directory.parent.absolute()), directory.name)
    argv = command("runtime.memory.keeper_main", *where, kind)
    # Another number: a descriptor that is duplicated onto itself would be closed by exec.
    given = fcntl.fcntl(listener_fd, fcntl.F_DUPFD_CLOEXEC, LISTENER_FD + 1)
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
        (os.POSIX_SPAWN_DUP2, given, LISTENER_FD),
    ]
    try:
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsid=True, setsigmask=())
    finally:
        os.close(given)
    os.waitpid(pid, 0)  # it forks, and the parent ends
