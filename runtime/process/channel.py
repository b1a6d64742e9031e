"""What the runtime and a container's init say to each other: small typed messages on a socket.

Either side that goes away ends the conversation: a read then raises ChannelClosed, none waits for
ever. Init is a process that a container may have got hold of, so the runtime takes nothing from it
but short byte strings; the other way goes marshal(3), which costs no import (json: 12 ms).
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# runtime -> init
PLAN = "plan"  # an InitPlan or ExecPlan
GO = "go"  # the hooks of the runtime have been run, or the listener is in its place
# init -> runtime
HELPER = "helper"  # pid of the helper that opens what is mounted, as the runtime sees it
UNSHARED = "unshared"  # in a user namespace that nobody is mapped in yet
FORKED = "forked"  # pid of the container's process, as the runtime sees it
# the environment is there: time for the hooks before pivot_root; its notify socket, or 0
MOUNTED = "mounted"
TERMINAL = "terminal"  # its path inside; after it comes one byte with the pty's other end
READY = "ready"  # all is done but exec
WAITING = "waiting"  # more than the fifo holds, so that it goes on when `start` reads this
LISTENER = "listener"  # the descriptor that its seccomp filter's listener will be
FAILED = "failed"  # step, path or "", errno or 0, reason

_LENGTH_BYTES = 4
_MAX_FROM_INIT = 128 * 1024  # a fifo holds at least a page, of at most 64 KiB


class ChannelClosed(Exception):
    """The other side has gone, and had not said what was awaited."""

    def __init__(self, expected: str) -> None:
        super().__init__(f"the other side ended before it said {expected!r}")


class UnexpectedMessage(Exception):
    """The other side said something else than what was awaited."""

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"expected the message {expected!r}, received {received!r}")


class Failed(Exception):
    """A step of init failed; it has ended."""

    def __init__(self, step: str, path: str, number: int, reason: str) -> None:
        super().__init__(f"{step}: {path}: {reason}" if path else f"{step}: {reason}")
        self.step = step
        self.path = path
        self.errno = number
        self.reason = reason


class Channel:
    """One end of the conversation; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, kind: str, *fields: str | int) -> None:
        """Say *kind* with *fields*, which come out as strings."""
        texts = (str(field).replace("\0", "?") for field in fields)
        self._write("\0".join((kind, *texts)).encode("utf-8", "surrogateescape"))

    def receive(self, *kinds: str) -> list[str]:
        """Wait for a message of one of *kinds*, and return its fields.

        Raises UnexpectedMessage, ChannelClosed, or Failed when that is what the other side says.
        """
        expected = " or ".join(kinds)
        payload = self._read(_MAX_FROM_INIT, expected)
        kind, *fields = payload.decode("utf-8", "surrogateescape").split("\0")
        if kind == FAILED and len(fields) == 4 and fields[2].isdecimal():
            step, path, number, reason = fields
            raise Failed(step, path, int(number), reason)
        if kind not in kinds:
            raise UnexpectedMessage(expected, kind)
        return fields

    def send_plan(self, plan: Any) -> None:
        """Tell init what to do; only the runtime says this."""
        self._write(marshal.dumps((PLAN, plan)))

    def receive_plan(self) -> Any:
        """Wait for the plan."""
        kind, plan = marshal.loads(self._read(None, PLAN))
        if kind != PLAN:
            raise UnexpectedMessage(PLAN, str(kind))
        return plan

    def close(self) -> None:
        """Hang up; without effect the second time."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write(self, payload: bytes) -> None:
        data = memoryview(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)
        while data:
            data = data[os.write(self.fd, data) :]

    def _read(self, limit: int | None, expected: str) -> bytes:
        length = int.from_bytes(self._read_exactly(_LENGTH_BYTES, expected), "big")
        if limit is not None and length > limit:
            raise UnexpectedMessage(expected, f"{length} bytes")
        return self._read_exactly(length, expected)

    def _read_exactly(self, length: int, expected: str) -> bytes:
        data = b""
        while len(data) < length:
            try:
                piece = os.read(self.fd, length - len(data))
            except ConnectionResetError:  # it ended without reading all that we had said
                piece = b""
            if not piece:
                raise ChannelClosed(expected)
            data += piece
        return data
