"""A container that says that it is ready, and the service manager that waits for it. sd_notify(3).

Its socket lies in the container, made by its init; here is the other end until it has said so once.
It does not come with a mount, so that a checkpoint has nothing more to carry than a file. Only root
can take it out of init, so for others it lies in a directory of ours that is mounted there.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from threading import Thread

from criu_rpc.logger import Logger
from runtime import pidfd
from runtime.errors import ContainerError
from runtime.oserrors import failing
from runtime.process import notify
from runtime.socket_path import short_path
from runtime.state import NOTIFY_DIRECTORY, State
from runtime.syscalls import pidfd_getfd

logger = Logger(__name__)

_READY = b"READY="
_BARRIER_S = 30


class Readiness:
    """What the container of *state* says at its socket, for who listens at *manager*."""

    def __init__(self, own: socket.socket, manager: str, init: int, init_pid: int) -> None:
        self._own, self._manager = own, manager
        self._init, self._init_pid = os.dup(init), init_pid

    @classmethod
    def of(cls, state: State, directory: Path, manager: str) -> Readiness | None:
        """To be asked before it is started: its init lets go of the socket then.

        directory: of its state; manager: a path, or an abstract name after "@". None when it was
        made with no socket.
        """
        ours = directory / NOTIFY_DIRECTORY
        with pidfd.init_of(state) as init, failing("taking the notify socket of the container"):
            if init is None or not (state.notify_fd or ours.is_dir()):
                return None
            if state.notify_fd:
                own = socket.socket(fileno=pidfd_getfd(init, state.notify_fd))
            else:
                own = _bound(ours / notify.NAME)
            return cls(own, manager, init, state.init_pid)

    def close(self) -> None:
        """Hang up: nobody listens to the container any more."""
        self._own.close()
        os.close(self._init)

    def pass_on(self, main_pid: int = 0) -> None:
        """Wait until it says that it is ready, or has ended; say so, and that it is *main_pid*.

        main_pid: by default its init. Raises SetupFailed when the manager cannot be told; the
        container runs on.
        """
        try:
            if said := self._await():
                with failing(f"telling {self._manager} that the container is ready"):
                    _tell(self._manager, said, main_pid or self._init_pid)
        finally:
            self.close()

    def pass_on_beside(self) -> None:
        """The same beside what this process does, which is the one that is to be watched."""
        Thread(target=self._pass_on_logged, args=(os.getpid(),), daemon=True).start()

    def _pass_on_logged(self, main_pid: int) -> None:
        try:
            self.pass_on(main_pid)
        except ContainerError as exc:
            logger.warning("%s", exc)

    def _await(self) -> bytes:
        poll = select.poll()
        for fd in (self._own.fileno(), self._init):
            poll.register(fd, select.POLLIN)
        while self._own.fileno() in {fd for fd, _ in poll.poll()}:
            for line in self._own.recv(4096).split(b"\n"):
                if line.startswith(_READY):
                    return line
        return b""


def _bound(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a start that failed
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with short_path(path) as name:
            end.bind(name)
        path.chmod(0o777)  # for every user of the container
    except BaseException:
        end.close()
        raise
    return end


def _tell(manager: str, said: bytes, main_pid: int) -> None:
    """Say it, and wait until it has been taken (sd_notify_barrier(3)): then we may end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.connect(f"\0{manager[1:]}" if manager.startswith("@") else manager)
        end.send(said + b"\n")
        end.send(b"MAINPID=%d\n" % main_pid)
        ours, theirs = os.pipe()
        try:
            socket.send_fds(end, [b"BARRIER=1"], [theirs])
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.poll(_BARRIER_S * 1000)
        os.close(ours)
