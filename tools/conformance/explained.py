"""Differences that are as they are to be: where, in whom, and why."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """Why a runtime answers otherwise than migrator at one place; "*" stands for any."""

    case: str
    observation: str
    runtime: str
    why: str


EXPLAINED: tuple[Reason, ...] = ()


def reason_for(case: str, observation: str, runtime: str) -> str | None:
    """Why *runtime* differs there; None where nobody has said."""
    for each in EXPLAINED:
        asked = (case, observation, runtime)
        if all(mine in ("*", theirs) for mine, theirs in zip(each[:3], asked, strict=True)):
            return each.why
    return None
