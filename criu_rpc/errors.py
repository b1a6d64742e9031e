"""What can go wrong between us and one criu process.

CriuError
├── CriuNotFound         no criu program anywhere
├── CriuTooOld           a program, but older than what is needed
├── MissingFeature       this kernel or this CRIU lacks something that was asked for
├── CriuRequestFailed    CRIU answered "no": its errno, its message, the log's own cause
├── CriuDied             CRIU ended without an answer
├── BadReply             CRIU's answer is not an answer
└── BadImages            an image directory that no restore should be tried from
"""

import errno
import os
import signal
from pathlib import Path


class CriuError(Exception):
    """Root of all errors of this package."""

    exit_code = 1


class CriuNotFound(CriuError):
    """There is no criu program, or the named one cannot be executed."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"no criu program {where}; run `make setup`, install the package criu (4.1 or newer), "
            "or name one with --criu or $MIGRATOR_CRIU"
        )


class CriuTooOld(CriuError):
    """The criu program is older than what the work needs."""

    def __init__(self, found: str, needed: str) -> None:
        super().__init__(f"criu {found} is too old for this kernel, {needed} or newer is needed")
        self.found, self.needed = found, needed


class MissingFeature(CriuError):
    """CRIU or the kernel lacks *features*."""

    def __init__(self, features: tuple[str, ...]) -> None:
        super().__init__(f"criu on this kernel lacks {', '.join(features)}")
        self.features = features


class CriuRequestFailed(CriuError):
    """CRIU has answered that *action* failed.

    State: what CRIU had begun it has undone (a dump's tasks run on, a restore's are killed);
    image and log files are left for inspection.
    """

    def __init__(
        self,
        action: str,
        *,
        cr_errno: int = 0,
        cr_errmsg: str = "",
        log_path: Path | None = None,
        cause: str | None = None,
        remedy: str | None = None,
        stderr: str = "",
    ) -> None:
        self.action, self.cr_errno, self.cr_errmsg = action, cr_errno, cr_errmsg
        self.log_path, self.cause, self.remedy, self.stderr = log_path, cause, remedy, stderr
        why = cause or cr_errmsg or _last_line(stderr) or _errno_text(cr_errno) or "no reason given"
        text = f"criu {action} failed: {why}"
        if remedy:
            text += f"; {remedy}"
        if log_path is not None:
            text += f" (log: {log_path})"
        super().__init__(text)


class CriuDied(CriuError):
    """CRIU ended in the middle of *action*.

    State: the kernel has let a dump's tasks go on, but nothing that CRIU changed around them is
    undone: their network may be locked, their sockets in repair mode, their cgroup frozen.
    """

    def __init__(self, action: str, status: int | None, stderr: str = "") -> None:
        self.action, self.status, self.stderr = action, status, stderr
        text = f"criu {_how_it_ended(status)} during {action}"
        if line := _last_line(stderr):
            text += f": {line}"
        super().__init__(text)


class BadReply(CriuError):
    """What came over the socket cannot be the answer to *action*."""

    def __init__(self, action: str, why: str) -> None:
        super().__init__(f"criu gave no valid answer to {action}: {why}")
        self.action, self.why = action, why


class BadImages(CriuError):
    """The image directory is incomplete, damaged or not made by CRIU."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


def _how_it_ended(status: int | None) -> str:
    """*status* as subprocess gives it: negative for a signal, None for not ended."""
    if status is None:
        return "closed the conversation"
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _errno_text(number: int) -> str:
    if not number:
        return ""
    # cr-service.c answers EBADRQC for whatever it cannot make of a request's options
    if number == errno.EBADRQC:
        return "it rejects the request's options"
    return os.strerror(number)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
