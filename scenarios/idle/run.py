"""A container that only looks at the clock moves: how long does it stand still at the least?"""

from __future__ import annotations

from scenarios.idle.workload import IdleWorkload

SUMMARY = "an idle container moves, and says itself how long it stood still"


def workload() -> IdleWorkload:
    """What is moved."""
    return IdleWorkload()
