"""CRIU's own servers of pages: `criu lazy-pages` and `criu page-server`, each for one restore.

Neither is tied to our life: a restored process must not lose its memory because we end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

from criu_rpc import log
from criu_rpc.errors import CriuDied, CriuNotFound, CriuRequestFailed
from criu_rpc.logger import Logger
from criu_rpc.process import popen

logger = Logger(__name__)

_STDERR_TAIL = 4096
#: a state in /proc/PID/net/tcp: TCP_LISTEN
_LISTENS = "0A"


class CriuDaemon:
    """One of them, as a child of ours that is ready."""

    def __init__(self, verb: str, child: Popen[bytes], stderr_fd: int, log_path: Path) -> None:
        self._verb, self._child, self._stderr_fd = verb, child, stderr_fd
        self.log_path = log_path

    @classmethod
    def start(
        cls, criu: Path, verb: str, images_dir: Path, work_dir: Path, options: Sequence[str] = ()
    ) -> CriuDaemon:
        """Run `criu VERB` until it says that it is ready (util.c: status_ready).

        Its log is VERB.log in *work_dir*. Raises CriuNotFound, CriuRequestFailed, CriuDied.
        """
        log_path = work_dir / f"{verb}.log"
        log_path.unlink(missing_ok=True)  # else an error in it may be of the last time
        ready, ready_in = os.pipe()
        stderr_fd = os.memfd_create("criu-stderr", os.MFD_CLOEXEC)
        command = [str(criu), verb, "-D", str(images_dir), "-W", str(work_dir)]
        command += ["-o", log_path.name, "--status-fd", str(ready_in), *options]
        logger.debug("starting %s", command)
        try:
            child = popen(command, stderr_fd, (ready_in,))
        except OSError as error:
            os.close(stderr_fd)
            os.close(ready)
            raise CriuNotFound(f"that can be started: {error}") from error
        finally:
            os.close(ready_in)
        daemon = cls(verb, child, stderr_fd, log_path)
        with os.fdopen(ready, "rb") as said:
            if not said.read(1):
                daemon.wait()
                raise CriuDied(verb, 0, daemon._stderr())
        return daemon

    def wait(self) -> None:
        """Until it has done all there was to do. Raises CriuRequestFailed, CriuDied."""
        status = self._child.wait()
        stderr = self._stderr()
        if status < 0:
            raise CriuDied(self._verb, status, stderr)
        if status > 0:
            cause = log.cause(self.log_path) or log.first_error(stderr.splitlines())
            raise CriuRequestFailed(
                self._verb,
                log_path=self.log_path if self.log_path.exists() else None,
                cause=cause,
                remedy=log.remedy(cause),
                stderr=stderr,
            )

    def terminate(self) -> None:
        """End it; whoever still waits for pages of it loses them."""
        self._child.terminate()
        self._child.wait()

    def _stderr(self) -> str:
        size = os.fstat(self._stderr_fd).st_size
        tail = os.pread(self._stderr_fd, _STDERR_TAIL, max(0, size - _STDERR_TAIL))
        return tail.decode(errors="replace").strip()


def end_unless_taken(pid: int) -> bool:
    """Kill a criu of ours that waits with pages, unless somebody has come for them; whether we did.

    It is stopped while we look, so that nobody is let in meanwhile: who has had pages may have
    a copy that runs.
    """
    os.kill(pid, signal.SIGSTOP)
    now = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    stopped = now is not None and now.si_code == os.CLD_STOPPED
    nobody = stopped and any(waiting == 0 for waiting in _queues(pid))
    os.kill(pid, signal.SIGKILL if nobody else signal.SIGCONT)
    return nobody


def _queues(pid: int) -> Iterator[int]:
    """How many wait to be let in at each TCP socket that it listens at (proc_pid_net(5), tcp)."""
    own = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            own.add(os.readlink(fd))
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in own:
                yield int(fields[4].partition(":")[2], 16)
