"""Hand the listener of a seccomp filter to who answers it: the agent at linux.seccomp.listenerPath.

OCI runtime-spec config-linux.md "Seccomp", "The Container Process State": over a connection to the
socket go the state as JSON and, beside it, the descriptor. The process under the filter waits
meanwhile in a read, the only call that it makes; the descriptor is taken out of it by
pidfd_getfd(2), so it matters not which calls the agent is to be asked about. An ordinary user may
do so with who can be traced (ptrace(2) "Ptrace access mode checking"), so that init can be then.
"""

from __future__ import annotations

import errno
import json
import os
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import send_fds
from typing import TYPE_CHECKING, Any

from runtime import socket_path
from runtime.errors import SetupFailed
from runtime.oserrors import failing
from runtime.process.channel import GO, LISTENER, Channel, ChannelClosed, UnexpectedMessage
from runtime.syscalls import pidfd_getfd

if TYPE_CHECKING:
    from socket import socket

    from runtime.state import State, Status

_STEP = "handing over the seccomp listener"
_LINK = "anon_inode:seccomp notify"
_POLL_MS = 1


class Agent:
    """Who is to answer for one process, connected already."""

    def __init__(self, connection: socket, metadata: str, state: Mapping[str, Any]) -> None:
        self._connection = connection
        self._metadata = metadata
        self._state = state

    def hand_over(self, pid: int, heed: Channel, tell: Channel) -> None:
        """Send the listener of process *pid*, which waits for `tell` then, and let it go on.

        Raises SetupFailed, or channel.Failed when the process says so; it waits on then.
        """
        try:
            (number,) = heed.receive(LISTENER)
            with failing(_STEP):
                listener_fd = _take(pid, int(number), heed)
                try:
                    self._send(pid, listener_fd)
                finally:
                    os.close(listener_fd)
        except ChannelClosed:
            raise SetupFailed(_STEP, "the process has ended") from None
        except (UnexpectedMessage, ValueError) as exc:  # somebody in the container has its channel
            raise SetupFailed(_STEP, str(exc)) from exc
        tell.send(GO)

    def _send(self, pid: int, listener_fd: int) -> None:
        state = {
            "ociVersion": self._state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self._metadata,
            "state": self._state,
        }
        data = json.dumps(state).encode()
        sent = send_fds(self._connection, [data], [listener_fd])
        if rest := data[sent:]:  # who has all of it may have closed already
            self._connection.sendall(rest)
        self._connection.close()  # which is how the agent knows that this was all of it


@contextmanager
def connected(state: State, seccomp: Mapping[str, Any], status: Status) -> Iterator[Agent]:
    """The agent that *seccomp* names, for a process of the container of *state*.

    Raises SetupFailed when nobody is there.
    """
    path = seccomp["listenerPath"]
    with failing(f"failed to connect with seccomp agent at {path}"):  # as runc has it
        connection = socket_path.connect(Path(path))
    with connection:
        yield Agent(connection, seccomp.get("listenerMetadata") or "", state.oci(status))


def _take(pid: int, number: int, heed: Channel) -> int:
    """Descriptor *number* of process *pid*, as soon as that is the listener."""
    poll = select.poll()
    poll.register(heed.fd, select.POLLIN)
    pidfd = os.pidfd_open(pid)
    try:
        while True:
            if (fd := _listener(pidfd, number)) is not None:
                return fd
            if poll.poll(_POLL_MS):
                heed.receive("its listener")  # it has ended, or says why it cannot
    finally:
        os.close(pidfd)


def _listener(pidfd: int, number: int) -> int | None:
    try:
        fd = pidfd_getfd(pidfd, number)
    except OSError as exc:
        if exc.errno == errno.EBADF:
            return None
        raise
    if os.readlink(f"/proc/self/fd/{fd}") == _LINK:
        return fd
    os.close(fd)
    return None
