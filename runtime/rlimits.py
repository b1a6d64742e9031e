"""Resource limits of a process (getrlimit(2)). Part of what a container's init imports."""

from __future__ import annotations

import resource as current

from runtime.constants import RLIMITS
from runtime.syscalls import prlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.spec.model import Rlimit

_NOFILE = RLIMITS["RLIMIT_NOFILE"]
_NAMES = {number: name for name, number in RLIMITS.items()}


def plan(limits: Iterable[Rlimit]) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) of every limit."""
    return [(RLIMITS[limit.type], limit.soft, limit.hard) for limit in limits]


def allow(limits: Iterable[tuple[int, int, int]]) -> None:
    """Raise the hard limits of this process as far as *limits* go; OSError names the refused one.

    The host's root alone may do so, and root of a user namespace is not (getrlimit(2)).
    """
    for resource, soft, hard in limits:
        now = current.getrlimit(resource)
        if _above(hard, now[1]):
            _set(resource, now[0], hard, asked=(soft, hard))


def _above(limit: int, other: int) -> bool:
    """Whether *limit* is greater; -1 is the greatest."""
    return limit % 2**64 > other % 2**64


def apply(limits: Iterable[tuple[int, int, int]]) -> None:
    """Set the limits of this process; OSError names the one that was refused.

    The number of descriptors is only raised, which takes privileges: the rest of the way to the
    program needs some, and `lower_descriptors` is for the moment before it.
    """
    for resource, soft, hard in limits:
        now = current.getrlimit(resource) if resource == _NOFILE else (0, 0)
        _set(resource, max(soft, now[0]), max(hard, now[1]), asked=(soft, hard))


def _set(resource: int, soft: int, hard: int, *, asked: tuple[int, int]) -> None:
    try:
        prlimit(0, resource, soft, hard)
    except OSError as exc:
        exc.filename = f"{_NAMES[resource]} to {asked[0]}:{asked[1]}"
        raise


def lower_descriptors(limits: Iterable[tuple[int, int, int]]) -> None:
    """Set the limit of descriptors as it is to be; lowering it is never refused."""
    for resource, soft, hard in limits:
        if resource == _NOFILE:
            prlimit(0, resource, soft, hard)
