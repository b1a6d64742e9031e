"""Why CRIU failed: the telling line of its log, and what to do about the well-known ones.

A log line reads `(00.123456)   1234: Error (criu/file.c:12): what happened`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

_ERROR = re.compile(r"^(?:\(\d+\.\d+\)\s*)?(?:\d+:\s*)?Error \([^)]*\):\s*(?P<text>.*)")

# Lines that say nothing of a failure's cause: what CRIU goes on after, and its last words.
_HOLLOW = re.compile(
    r"^(rlimit: Can't setup RLIMIT_NOFILE|tun: Unable to create tun|Dumping FAILED|Restoring FAILED"
    r"|RPC client reported script error|One of more action scripts failed"
    r"|Killing processes because of failure)"
)

_REMEDIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (r"Connected TCP socket|tcp-established", "allow it with --tcp-established"),
        (r"In-flight connection", "leave it out with --tcp-skip-in-flight"),
        (r"tcp-close", "restore it with --tcp-close"),
        (r"Unix socket \d+ not found", "it is a socket of the host: use a pipe or a file instead"),
        (r"half of stream unix|External socket|external socket", "allow it with --ext-unix-sk"),
        (
            r"dangling tty|not a session leader|inherit session|ctty inheritance",
            "allow it with --shell-job",
        ),
        (r"Some file locks", "carry them with --file-locks"),
        (r"ghost file .* increase limit", "raise it with --ghost-limit"),
        (r"Can't create link remap", "allow it with --link-remap"),
        (r"io_uring", "CRIU cannot move io_uring: have the program run without it"),
        (r"Can't get 1:16 opt", "this criu is too old for this kernel"),
        (r"multipathtcp|MPTCP", "have the program run without multipath TCP"),
        (r"has bad (size|mode|build-ID)", "the root filesystem is not as it was when dumped"),
        (r"Can't fork for \d+: File exists|do not match expected", "that pid is taken here"),
        (r"intersects with p?g?s?id", "those ids are taken by the caller: start it elsewhere"),
        (
            r"required by image|CPU .*capabilities do not match|xsave",
            "this CPU lacks what the one had that was dumped on",
        ),
        (
            r"tee: .*not permitted|page-pipe: splice: -1: Bad file",
            "raise the limit: sysctl fs.pipe-max-size=1073741824",
        ),
        (r"rt vDSO area bounds", "this criu is too old for this kernel"),
        (r"iptables|Locking network failed", "install iptables or choose another --network-lock"),
        (r"nftables", "choose another --network-lock"),
        (r"Timeout reached|Unable to freeze cgroup", "some process cannot be interrupted"),
        (
            r"proper root mount|autodetected external mount|master_id|Can't lookup mount",
            "a mount has to be declared external",
        ),
        (
            r"[Mm]agic doesn't match|Unexpected EOF|Img trimmed|[Ii]mages? corrupt|corrupted image"
            r"|Failed unpacking|Wrong object requested",
            "the images are damaged or not made by CRIU",
        ),
        (r"No space left on device", "free some space where the images are written"),
    )
)


def cause(log_path: Path) -> str | None:
    """The first error of the log that says what happened; None when there is none."""
    try:
        with log_path.open(encoding="utf-8", errors="replace") as log:
            return first_error(log)
    except OSError:
        return None


def first_error(lines: Iterable[str]) -> str | None:
    """The text of the first telling error line of *lines*, else of the first one."""
    hollow = None
    for line in lines:
        if match := _ERROR.match(line):
            text = match["text"].strip()
            if not _HOLLOW.match(text):
                return text
            hollow = hollow or text
    return hollow


def remedy(text: str | None) -> str | None:
    """What the user can do about *text*, for errors that are well known."""
    if text is None:
        return None
    return next((advice for pattern, advice in _REMEDIES if pattern.search(text)), None)
