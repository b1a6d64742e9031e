"""1 GiB of memory moves: half of its pages hold zeros, one tenth is rewritten meanwhile."""

from __future__ import annotations

from scenarios.write_heavy.workload import ScribeWorkload

SUMMARY = "1 GiB, half of it zeros, moves while a tenth of it is rewritten"


def workload() -> ScribeWorkload:
    """What is moved."""
    return ScribeWorkload(mib=1024, working_mib=102, mb_per_second=20, half_zero=True)
