"""A process of 256 MiB moves while it writes 20 MB a second to a quarter of them."""

from __future__ import annotations

from scenarios.write_heavy.workload import ScribeWorkload

SUMMARY = "a process that writes 20 MB/s to its memory moves, and checks every page"


def workload() -> ScribeWorkload:
    """What is moved."""
    return ScribeWorkload(mib=256, working_mib=64, mb_per_second=20)
