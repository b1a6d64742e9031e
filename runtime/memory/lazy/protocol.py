"""CRIU's side of the conversation: which process has which userfaultfd, and when all of them run.

On `lazy-pages.socket` in CRIU's working directory come, for each process, its pid in its own pid
namespace (an int; negative: a zombie, which has no memory), then one byte with the userfaultfd
(SCM_RIGHTS); at last an int that says that the restore has finished (criu/uffd.c). What is received
goes straight into the log: a descriptor that we hold but do not know of would be served by nobody.
"""

from __future__ import annotations

import ctypes
import os
import struct
from _socket import AF_UNIX, SCM_RIGHTS, SO_ACCEPTCONN, SO_PASSCRED, SOCK_STREAM, SOL_SOCKET, socket
from contextlib import suppress
from pathlib import Path

from runtime.memory.lazy.layout import (
    CONTROL_BYTES,
    FROM_CRIU,
    LOG_CONTROL,
    LOG_DATA,
    LOG_HEADER,
    LOG_VECTOR,
)
from runtime.memory.lazy.state import State, Table
from runtime.socket_path import connect, short_path

NAME = "lazy-pages.socket"

_RESTORE_FINISHED = 0x52535446
_SCM_CREDENTIALS = 2
_SOCK_CLOEXEC = 0x80000
_MSG_DONTWAIT, _MSG_CMSG_CLOEXEC = 0x40, 0x4000_0000
_HEADER = struct.Struct("PIiPNPNi")  # struct msghdr
_VECTOR = struct.Struct("PN")  # struct iovec
_CONTROL = struct.Struct("Nii")  # struct cmsghdr
_INT = struct.Struct("i")
_CREDENTIALS = struct.Struct("3i")  # struct ucred

_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.recvmsg.restype = ctypes.c_ssize_t
_libc.accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Giver:
    """Says what criu would, for processes whose userfaultfds it has not made."""

    def __init__(self, work_dir: Path) -> None:
        """Connect to who listens in *work_dir*. Raises OSError."""
        self._connection = connect(work_dir / NAME)

    def give(self, pid_inside: int, pid: int, uffd: int) -> None:
        """Give the server process *pid*, and its userfaultfd. Raises OSError."""
        self._connection.sendall(_INT.pack(pid_inside))
        rights = (SOL_SOCKET, SCM_RIGHTS, _INT.pack(uffd))
        sender = (SOL_SOCKET, _SCM_CREDENTIALS, _CREDENTIALS.pack(pid, 0, 0))
        self._connection.sendmsg([b"\0"], [rights, sender])

    def finish(self) -> None:
        """All of them are about to run. Raises OSError."""
        self._connection.sendall(_INT.pack(_RESTORE_FINISHED))
        self.close()

    def close(self) -> None:
        """Before `finish` the server takes that for their end."""
        self._connection.close()


class ProtocolError(Exception):
    """CRIU has said what it should not, or has ended too early."""


def listen(work_dir: Path, name: str = NAME) -> int:
    """Listen where a criu that works in *work_dir* connects to; its descriptor."""
    with suppress(FileNotFoundError):
        os.unlink(work_dir / name)
    listener = socket(AF_UNIX, SOCK_STREAM)
    try:
        # Says who sends: the process itself, whose pid here we learn in no other way.
        listener.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
        with short_path(work_dir / name) as path:
            listener.bind(path)
        listener.listen(1)
        return listener.detach()
    except BaseException:
        listener.close()
        raise


def accept(listener_fd: int) -> int:
    """Take a connection."""
    return _checked(_libc.accept4(listener_fd, None, None, _SOCK_CLOEXEC))


def accepted() -> int:
    """The connection that a killed server had taken and not written down; -1: there is none."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:") and _connected(int(name)):
                return int(name)
    return -1


def _connected(fd: int) -> bool:
    candidate = socket(fileno=fd)
    try:
        # It bears the name that the listener was bound to.
        ours = candidate.family == AF_UNIX and str(candidate.getsockname()).endswith(f"/{NAME}")
        return ours and not bool(candidate.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    finally:
        candidate.detach()


def receive(state: State, table: Table, connection_fd: int) -> bool:
    """Receive what has come into the log; False when CRIU has hung up, BlockingIOError: nothing."""
    at = state.begin(FROM_CRIU, connection_fd)
    base = state.address + at
    size = 1 if table.awaited_pid else _INT.size
    _VECTOR.pack_into(state.memory, at + LOG_VECTOR, base + LOG_DATA, size)
    _HEADER.pack_into(
        state.memory,
        at + LOG_HEADER,
        0,
        0,
        0,
        base + LOG_VECTOR,
        1,
        base + LOG_CONTROL,
        CONTROL_BYTES,
        0,
    )
    flags = _MSG_DONTWAIT | _MSG_CMSG_CLOEXEC
    received = _checked(_libc.recvmsg(connection_fd, base + LOG_HEADER, flags))
    if 0 < received < size:
        raise ProtocolError("criu has sent half a number")
    return received > 0


def take(state: State, table: Table) -> None:
    """Deal with the message in the log, if it has got there."""
    at = state.log_at()
    rights, sender = _control(state, at + LOG_CONTROL)
    (number,) = _INT.unpack_from(state.memory, at + LOG_DATA)
    if table.awaited_pid:
        if sender >= 0:  # it has got here; its one byte may be zero
            _take_descriptor(state, table, rights, sender)
        else:
            state.finish_log()
    elif number == _RESTORE_FINISHED:
        table.finished = True
        state.save(table)
    elif number > 0:
        table.awaited_pid = number
        state.save(table)
    else:
        state.finish_log()


def _take_descriptor(state: State, table: Table, uffd: int, sender: int) -> None:
    pid, table.awaited_pid = table.awaited_pid, 0
    if uffd < 0:
        raise ProtocolError(f"criu has sent no userfaultfd for process {pid}")
    space = next((each for each in table.spaces if each.pid == pid and each.uffd < 0), None)
    if space is None:
        raise ProtocolError(f"criu restores process {pid}, whose pages are not known here")
    space.uffd = uffd
    with suppress(ProcessLookupError):
        space.pidfd = os.pidfd_open(sender)
    state.save(table)


def _control(state: State, at: int) -> tuple[int, int]:
    """The descriptor and the pid of the sender that came with a message; -1 for what did not."""
    fd = pid = -1
    end = at + CONTROL_BYTES
    while at + _CONTROL.size <= end:
        size, level, kind = _CONTROL.unpack_from(state.memory, at)
        if size < _CONTROL.size + _INT.size:
            break
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            (fd,) = _INT.unpack_from(state.memory, at + _CONTROL.size)
        elif level == SOL_SOCKET and kind == _SCM_CREDENTIALS:
            (pid,) = _INT.unpack_from(state.memory, at + _CONTROL.size)
        at += -(-size // 8) * 8
    return fd, pid


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
