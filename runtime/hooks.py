"""Run the hooks of a spec: programs that get the container's state on stdin.

When which list is run, in whose namespaces, and what a failure means there is for the callers.
OCI runtime-spec config.md "POSIX-platform Hooks" and runtime.md "Lifecycle".
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from criu_rpc.logger import Logger
from runtime.errors import HookFailed
from runtime.spec.model import Hook

logger = Logger(__name__)

_TAIL_BYTES = 1024


def run(
    name: str,
    hooks: Iterable[Hook],
    state: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run *hooks*, the list called *name* in the spec, one after the other.

    state: the OCI state object (State.oci); env: of a hook that gives none, by default ours.
    Raises HookFailed at the first that fails; the hooks after it are not run.
    """
    for index, hook in enumerate(hooks):
        run_one(name, index, hook, state, env)


def run_one(
    name: str,
    index: int,
    hook: Hook,
    state: Mapping[str, Any],
    env: Mapping[str, str] | None = None,
) -> None:
    """Run *hook*, which has that *index* in its list.

    Raises HookFailed when it cannot be run, does not end with 0, or takes longer than its timeout;
    then nothing of it runs on.
    """
    argv = list(hook.args) or [hook.path]
    given = dict(entry.split("=", 1) for entry in hook.env)
    started = time.monotonic()
    with ExitStack() as stack:
        # Files in memory and not pipes: a hook may leave its stdin unread, or a daemon behind that
        # keeps its stderr.
        stdin_fd, output_fd = (_memory_file(which, stack) for which in ("stdin", "output"))
        os.pwrite(stdin_fd, json.dumps(state).encode(), 0)
        try:
            pid = _spawn(hook.path, argv, given or env or os.environ, stdin_fd, output_fd)
        except OSError as exc:
            raise HookFailed(
                name, hook.path, f"cannot be run: {exc.strerror}", index=index
            ) from exc
        status = _wait(pid, hook.timeout)
        took_s = time.monotonic() - started
        logger.debug("%s hook %s ended with %s after %.3f s", name, argv, status, took_s)
        if status != 0:
            why = _reason(status, hook) + _tail(output_fd)
            raise HookFailed(name, hook.path, why, index=index)


def _reason(status: int | None, hook: Hook) -> str:
    if status is None:
        return f"killed after its timeout of {hook.timeout} s"
    if status > 0:
        return f"exit status {status}"
    return f"killed by signal {-status}: {(signal.strsignal(-status) or 'unknown').lower()}"


def _memory_file(which: str, stack: ExitStack) -> int:
    fd = os.memfd_create(f"hook {which}", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _spawn(
    path: str, argv: list[str], env: Mapping[str, str], stdin_fd: int, output_fd: int
) -> int:
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin_fd, 0),
            (os.POSIX_SPAWN_DUP2, output_fd, 1),
            (os.POSIX_SPAWN_DUP2, output_fd, 2),
        ],
        # A session of its own, so that a timeout ends what the hook has started too.
        setsid=True,
        setsigmask=(),
        # Python ignores these two, and what is ignored stays so over exec.
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _wait(pid: int, timeout_s: int | None) -> int | None:
    """The exit status of *pid*, negative for a signal; None when it had to be killed."""
    ended = False
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))
    finally:
        os.close(pidfd)
        if not ended:  # timed out, or we are interrupted
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _tail(output_fd: int) -> str:
    """The last of what the hook has printed, on one line, to follow the reason."""
    size = os.fstat(output_fd).st_size
    text = os.pread(output_fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {'; '.join(lines)}" if lines else ""
