"""The server's twin: a process with the same file-descriptor table, which takes over when it dies.

When the last descriptor of a userfaultfd is closed, the kernel answers every further fault with a
page of zeros (fs/userfaultfd.c: userfaultfd_release): a container whose only server is killed goes
on with memory that is silently wrong. Both processes share one table (clone(2), CLONE_FILES), so
that each descriptor that one of them gets is the other's in the same instant.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from runtime.memory.lazy.layout import DONE, W_SERVER, W_STATUS, W_TAKEOVERS, W_TWIN, W_TWIN_FD
from runtime.memory.lazy.state import State
from runtime.syscalls import clone3

_CLONE_FILES = 0x400


class Succeeded(BaseException):
    """We were the twin, and the server has died: begin anew from the shared memory."""


class Succession:
    """Who serves and who waits; in the one that serves."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._twin = 0
        #: readable when the twin has died; -1: there is none
        self.twin_fd = -1
        self._own_fd = -1

    def begin(self) -> None:
        """Become the server, with a twin."""
        self._state.lock()
        self._state.words[W_SERVER] = os.getpid()
        self._own_fd = os.pidfd_open(os.getpid())
        self.renew()

    def renew(self) -> None:
        """Make a twin in place of the one that has died; try again later when it cannot be made.

        Raises Succeeded in the twin, when it is the server.
        """
        self._forget()
        try:
            pid = clone3(_CLONE_FILES)
        except OSError as error:
            self._state.say(f"alone, for no second process can be made: {error.strerror}")
            return
        if pid == 0:
            self._wait()
            raise Succeeded
        self._twin = pid
        self.twin_fd = os.pidfd_open(pid)
        self._state.words[W_TWIN], self._state.words[W_TWIN_FD] = pid, self.twin_fd

    def end(self) -> None:
        """The twin is not needed any more."""
        if self._twin:
            os.kill(self._twin, signal.SIGKILL)
            os.waitpid(self._twin, 0)

    def _forget(self) -> None:
        # Before it is closed: the number may be another descriptor's soon.
        self._state.words[W_TWIN] = self._state.words[W_TWIN_FD] = 0
        if self._twin:
            with suppress(ChildProcessError):
                os.waitpid(self._twin, 0)
            self._twin = 0
        if self.twin_fd >= 0:
            os.close(self.twin_fd)
            self.twin_fd = -1

    def _wait(self) -> None:
        """In the twin: until the server has died."""
        poll = select.poll()
        poll.register(self._own_fd, select.POLLIN)
        poll.poll()
        if self._state.words[W_STATUS] == DONE:
            os._exit(0)
        for fd in (self._own_fd, self._state.words[W_TWIN_FD]):
            if fd > 0:  # it may have died before it had the second
                os.close(fd)
        self._state.words[W_TAKEOVERS] += 1
