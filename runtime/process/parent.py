"""The runtime's side of a process that it starts in a container: spawn, talk, hand over, undo."""

from __future__ import annotations

import fcntl
import os
import select
import signal
from _socket import AF_UNIX, SOCK_STREAM, socketpair
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from criu_rpc.logger import Logger
from runtime.errors import ContainerError, ExecFailed, HookFailed, SetupFailed
from runtime.interpreter import command, interpreter
from runtime.oserrors import failing, sentence
from runtime.process.channel import (
    FORKED,
    GO,
    HELPER,
    TERMINAL,
    UNSHARED,
    Channel,
    ChannelClosed,
    Failed,
    UnexpectedMessage,
)
from runtime.process.sealed import sealed
from runtime.process.stdio import Stdio
from runtime.process.waiting import signals_held
from runtime.undo import Undo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from runtime.process.id_maps import IdMaps
    from runtime.seccomp.agent import Agent

logger = Logger(__name__)

INIT = "init"
JOIN = "join"
#: the first descriptor after the standard three
FIRST_EXTRA = 3

_STEP = "starting the container's process"
_HOOK = " hook"
_EXEC = "exec"


class Launched:
    """A process on its way into a container; as a context manager it is killed on an error.

    First there is the fresh interpreter, *launcher_pid*; it forks the process that stays, *pid*,
    which is a child of ours too unless it is detached, and ends.
    """

    def __init__(self, launcher_pid: int, channel: Channel) -> None:
        self.launcher_pid = launcher_pid
        self.channel = channel
        #: 0 until it is there
        self.pid = 0
        self._helper_pid = 0
        self._pidfds = [os.pidfd_open(launcher_pid)]

    @classmethod
    def spawn(cls, module: str, stdio: Stdio, *, fds: Sequence[int] = ()) -> Self:
        """Start the interpreter; it waits for its plan.

        module: INIT or JOIN; fds: descriptors of ours that are its own from FIRST_EXTRA on.
        """
        _occupy_standard_descriptors()
        with ExitStack() as stack:
            with failing("opening standard descriptors"):
                streams = stdio.open(stack)
            ours, theirs = (end.detach() for end in socketpair(AF_UNIX, SOCK_STREAM))
            stack.callback(os.close, theirs)
            channel = Channel(ours)
            # An interrupt comes when there is somebody who ends what has been started.
            with Undo() as undo, failing(f"starting {interpreter()}"), signals_held():
                undo.on_error(channel.close)
                launcher_pid = _spawn(module, streams, theirs, fds, stack)
                undo.on_error(_kill, launcher_pid)
                launched = cls(launcher_pid, channel)
                undo.on_error(launched.close)
                return launched

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.close()

    def tell(self, plan: Any, maps: IdMaps | None = None) -> int:
        """Hand over the plan; return the pid of the process that stays, which waits for `go`.

        maps: of the user namespace that it makes.
        """
        # When it has ended, what it had to say can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send_plan(plan)
        # These steps have the names that runc's log gives them.
        logger.debug("nsexec container setup: process %d enters the namespaces", self.launcher_pid)
        self._await_launcher()
        if plan.get("usher"):
            (helper_pid,) = self.receive(HELPER)
            self._helper_pid = int(helper_pid)
            self._await_launcher()
        if maps:
            self.receive(UNSHARED)
            maps.write(self.launcher_pid)
            self.go()
            self._await_launcher()
        (pid,) = self.receive(FORKED)
        logger.debug("child process in init(): it has forked process %s", pid)
        self.pid = int(pid)
        self._pidfds.append(os.pidfd_open(self.pid))  # it lives: it waits for `go`
        _reap(self.launcher_pid)
        self.launcher_pid = 0
        return self.pid

    @property
    def pidfd(self) -> int:
        """Of who stays, once `tell` has told its pid; ours to close."""
        return self._pidfds[-1]

    def hand_over(self, connection: socket | None) -> None:
        """Send who stays, as a pidfd, over *connection*, if there is one."""
        if connection is not None:
            from runtime import pidfd  # noqa: PLC0415 - lazy: seldom needed

            with failing("sending a pidfd"):
                pidfd.hand_over(self.pidfd, connection)

    def go(self) -> None:
        """Let it do the next part."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send(GO)

    def receive(self, expected: str) -> list[str]:
        """Wait for the message *expected*; what it says instead, and its end, is raised."""
        try:
            return self.channel.receive(expected)
        except Failed as exc:
            raise failure(exc) from None
        except UnexpectedMessage as exc:
            raise SetupFailed(_STEP, str(exc)) from exc
        except ChannelClosed:
            raise SetupFailed(_STEP, self._how_it_ended()) from None

    def receive_terminal(self) -> tuple[str, int]:
        """Wait for its terminal: its path inside, and the master, which is then ours to close."""
        (path,) = self.receive(TERMINAL)
        from runtime.process import passing  # noqa: PLC0415 - lazy: 1 ms, and not always needed

        with failing(_STEP):
            _, fd = passing.receive(self.channel.fd, 1)
        if fd is None:
            raise SetupFailed(_STEP, "it sent no terminal")
        return path, fd

    def await_exec(self, agent: Agent | None = None) -> None:
        """Wait until it has become the program, with *agent* to answer for its filter."""
        try:
            if agent:
                agent.hand_over(self.pid, self.channel, self.channel)
            self.channel.receive("exec")
        except ChannelClosed:  # by exec
            return
        except Failed as exc:
            raise failure(exc) from None

    def kill(self) -> None:
        """End whichever of both processes there is."""
        for pidfd in self._pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if self.launcher_pid:
            _reap(self.launcher_pid)
        unheard = self._unheard()
        self.channel.close()  # those that we have no pidfd of wait for a word, and end by that
        if self._helper_pid:  # ours, and not reaped yet
            os.kill(self._helper_pid, signal.SIGKILL)
        for pid in filter(None, (self.pid, *unheard)):
            _reap(pid)
        self.launcher_pid = self.pid = 0

    def _unheard(self) -> list[int]:
        """Whom the launcher, which has ended, has forked without our having heard of it."""
        found: list[int] = []
        if self.pid:
            return found
        poll = select.poll()
        with suppress(ChannelClosed, Failed, UnexpectedMessage, ValueError):
            poll.register(self.channel.fd, select.POLLIN)
            while poll.poll(0):
                found += map(int, self.channel.receive(HELPER, UNSHARED, FORKED))
        return found

    def close(self) -> None:
        """Hang up. A process that waits at the exec fifo does not mind, any other ends."""
        self.channel.close()
        if self._helper_pid:  # ends when the mounts are made, or with who makes them
            _reap(self._helper_pid)
            self._helper_pid = 0
        while self._pidfds:
            os.close(self._pidfds.pop())

    def _await_launcher(self) -> None:
        """Wait until it says something or ends.

        Killed between fork and message it would do neither: the process that it has forked keeps
        the conversation open, and waits for us.
        """
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        poll.register(self._pidfds[0], select.POLLIN)
        if self.channel.fd not in {fd for fd, _ in poll.poll()}:
            raise SetupFailed(_STEP, self._how_it_ended())

    def _how_it_ended(self) -> str:
        pid, self.pid, self.launcher_pid = self.pid or self.launcher_pid, 0, 0
        status = _reap(pid)
        if status is None:
            return "it ended"
        if status == -signal.SIGKILL:
            return "it was killed: is the memory limit too low to start in?"
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        return f"it ended with status {status}"


def failure(failed: Failed) -> ContainerError:
    """What init says failed, as the error that it is for a caller."""
    if failed.step.endswith(_HOOK):
        name = failed.step.removesuffix(_HOOK)
        return HookFailed(name, failed.path, failed.reason, index=failed.errno)
    if failed.step == _EXEC:
        return ExecFailed(failed.path, sentence("", failed.reason))
    return SetupFailed(failed.step, sentence(failed.path, failed.reason))


def _occupy_standard_descriptors() -> None:
    """Have none of our own descriptors be 0, 1 or 2, where the child's streams are to be."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)


def _spawn(
    module: str, streams: list[int], channel_fd: int, fds: Sequence[int], stack: ExitStack
) -> int:
    numbers = range(FIRST_EXTRA, FIRST_EXTRA + len(fds))
    sealed_fd = sealed(os.path.realpath(interpreter()))
    stack.callback(os.close, sealed_fd)
    # None may be where another one is put before it.
    interpreter_fd, channel_fd, *fds = (
        _out_of(numbers, fd, stack) for fd in (sealed_fd, channel_fd, *fds)
    )
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in zip(numbers, fds, strict=True)]
    # Onto itself: only takes away close-on-exec, in the child alone.
    actions.append((os.POSIX_SPAWN_DUP2, channel_fd, channel_fd))
    argv = command(f"runtime.process.{module}", *map(str, (channel_fd, *numbers)))
    path = f"/proc/self/fd/{interpreter_fd}"
    return os.posix_spawn(path, argv, {}, file_actions=actions, setsigmask=())


def _out_of(numbers: range, fd: int, stack: ExitStack) -> int:
    """*fd*, or a copy where it has one of *numbers*."""
    if fd not in numbers:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, numbers.stop)
    stack.callback(os.close, copy)
    return copy


def _kill(child_pid: int) -> None:
    os.kill(child_pid, signal.SIGKILL)  # still itself: nobody has waited for it
    _reap(child_pid)


def _reap(pid: int) -> int | None:
    """The exit code of *pid*, once it has ended; None when it is no child of ours."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)
