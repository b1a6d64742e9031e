"""Differences that are as they are to be: where, in whom, and why."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Reason(NamedTuple):
    """Why a runtime answers otherwise than migrator; the first three are patterns of fnmatch(3).

    The runtime is what it calls itself: an older one may not know yet what a newer one does.
    """

    case: str
    observation: str
    runtime: str
    why: str


_RUNC = "runc *"
_OLD_RUNC = "runc version 1.[01].*"
_NOT_YET = "this version ignores the field"

EXPLAINED: tuple[Reason, ...] = (
    Reason("a whole life", "state *: ociVersion", _RUNC, "it gives its own, not config.json's"),
    Reason("lists", "entry: ociVersion", _RUNC, "it gives its own, not config.json's"),
    Reason("a whole life", "state *: owner", _RUNC, "it names the owner in `list` alone"),
    Reason("lists", "none as JSON", _RUNC, "it prints null for no containers"),
    Reason(
        "exit codes of exec",
        "process.json",
        _RUNC,
        "it finds no program without a PATH in process.json; here execvp(3)'s default holds",
    ),
    Reason("sees: cgroup mount", "sees", _RUNC, "newer ones leave the tmpfs writable despite `ro`"),
    Reason("hooks", "poststart: status", _OLD_RUNC, "corrected in 1.2"),
    *(
        Reason(f"sees: {name}", "*", _OLD_RUNC, _NOT_YET)
        for name in ("I/O priority", "personality", "memory policy", "domain name", "clock")
    ),
    Reason("sees: memory policy", "*", "runc version 1.[23].*", _NOT_YET),
)


def reason_for(case: str, observation: str, runtime: str) -> str | None:
    """Why *runtime* differs there; None where nobody has said."""
    asked = (case, observation, runtime)
    for each in EXPLAINED:
        if all(fnmatchcase(theirs, mine) for mine, theirs in zip(each[:3], asked, strict=True)):
            return each.why
    return None
