"""Find and run the criu program: `criu swrk FD`, one SOCK_SEQPACKET conversation per process.

The process is never tied to our life (no PR_SET_PDEATHSIG): whoever speaks for a frozen container
may die, and criu must outlive it to let the container go on.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from criu_rpc.errors import CriuNotFound
from criu_rpc.logger import Logger

logger = Logger(__name__)

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_STDERR_TAIL = 4096


def find_criu(explicit: str | None = None) -> Path:
    """The criu program: *explicit*, $MIGRATOR_CRIU, the environment's own prefix, then PATH.

    Raises CriuNotFound.
    """
    if named := explicit or os.environ.get("MIGRATOR_CRIU"):
        return _executable(Path(named))
    private = Path(sys.prefix) / "opt/criu/bin/criu"
    if os.access(private, os.X_OK):
        return private
    if found := shutil.which("criu", path=search_path()):
        return Path(found)
    raise CriuNotFound(f"at {private} or on PATH")


def _executable(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise CriuNotFound(f"at {path}")
    return path.absolute()


def search_path() -> str:
    """Where criu finds the programs that it starts: PATH, and the directories of administrators."""
    # criu runs iptables-restore, nft's library and ip: a PATH without sbin, as a login over SSH
    # often has it, would fail in the middle of a freeze
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


class CriuProcess:
    """One running `criu swrk`; owns the process, our socket end, its pidfd and its stderr."""

    def __init__(self, child: subprocess.Popen[bytes], sock: socket.socket, stderr_fd: int) -> None:
        self._child = child
        self.sock = sock
        self.pidfd = os.pidfd_open(child.pid)
        self._stderr_fd = stderr_fd

    @classmethod
    def spawn(
        cls,
        criu: Path,
        *,
        within: AbstractContextManager[object],
        launcher: Sequence[str] = (),
        keep_fds: Iterable[int] = (),
    ) -> "CriuProcess":
        """Start *criu*, through *launcher* if given (it execs the arguments that follow it).

        Only the process comes to be *within*: a socket of ours would keep a namespace alive.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # a file, not a pipe: nobody has to read it for criu to go on
        stderr_fd = os.memfd_create("criu-stderr", os.MFD_CLOEXEC)
        command = [*launcher, str(criu), "swrk", str(theirs.fileno())]
        logger.debug("starting %s", command)
        try:
            with within:
                child = popen(command, stderr_fd, (theirs.fileno(), *keep_fds))
        except OSError as error:
            ours.close()
            os.close(stderr_fd)
            raise CriuNotFound(f"that can be started: {error}") from error
        finally:
            theirs.close()  # else criu's death would not give us end-of-file
        return cls(child, ours, stderr_fd)

    @property
    def pid(self) -> int:
        """Process id of criu (and of its launcher before that)."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it lives."""
        return self._child.poll()

    def wait(self, timeout_s: float | None) -> int | None:
        """Reap criu; None when it has not ended in time."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL and reap."""
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self._child.wait()

    def ended(self) -> bool:
        """Whether criu is gone, without reaping it."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def stderr(self) -> str:
        """The last few lines of what criu wrote outside its log."""
        size = os.fstat(self._stderr_fd).st_size
        tail = os.pread(self._stderr_fd, _STDERR_TAIL, max(0, size - _STDERR_TAIL))
        return tail.decode(errors="replace").strip()

    def close(self, grace_s: float) -> None:
        """Hang up, which makes criu undo its work, and reap it; kill it after *grace_s*."""
        self.sock.close()
        if self.wait(grace_s) is None:
            logger.warning("criu %d has not ended after %.0f s, killing it", self.pid, grace_s)
            self.kill()
        for fd in (self.pidfd, self._stderr_fd):
            os.close(fd)


def popen(command: list[str], stderr_fd: int, pass_fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a criu program, with the descriptors *pass_fds*; what it prints goes to *stderr_fd*."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stderr_fd,
        stderr=stderr_fd,
        pass_fds=pass_fds,
        # a Ctrl-C on our terminal is ours to handle: it must not kill criu with tasks in its hands
        process_group=0,
        # the messages that log.py knows are in English
        env={**os.environ, "PATH": search_path(), "LC_ALL": "C"},
    )
