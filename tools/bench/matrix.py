"""What is measured: workloads, and the ways to move them. Names are those of the command line."""

from __future__ import annotations

from collections.abc import Callable

from by_hand import ByHand

from scenarios.by_migrator import ByMigrator
from scenarios.idle.workload import IdleWorkload
from scenarios.redis_live.workload import RedisWorkload
from scenarios.workload import Mover, Workload
from scenarios.write_heavy.workload import ScribeWorkload


def _writing(mb_per_second: float, *, busy: bool = False) -> ScribeWorkload:
    """512 MiB, of which a quarter is rewritten."""
    settle_s = 3.0 if busy else 1.0
    return ScribeWorkload(
        mib=512, working_mib=128, mb_per_second=mb_per_second, busy=busy, settle_s=settle_s
    )


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "idle": IdleWorkload,
    "redis-64": lambda: RedisWorkload(64),
    "redis-256": lambda: RedisWorkload(256),
    "redis-1024": lambda: RedisWorkload(1024),
    "redis-4096": lambda: RedisWorkload(4096),
    "write-1": lambda: _writing(1),
    "write-20": lambda: _writing(20),
    "write-200": lambda: _writing(200),
    "half-zero": lambda: ScribeWorkload(
        mib=1024, working_mib=102, mb_per_second=20, half_zero=True
    ),
    # computes all the time and writes 20 MB/s: what it gets done shows what tracking costs it
    "busy-20": lambda: _writing(20, busy=True),
}
MODES: dict[str, Callable[[], Mover]] = {
    "auto": lambda: ByMigrator("auto"),
    "pre-copy": lambda: ByMigrator("pre-copy"),
    "post-copy": lambda: ByMigrator("post-copy"),
    "cold": lambda: ByMigrator("cold"),
    "stop-and-copy": lambda: ByHand("stop_and_copy"),
    "lazy-pages": lambda: ByHand("post_copy"),
}
#: No migration, but what tracking alone costs a process (tracking.py).
TRACKED = "tracked"
BANDWIDTHS = ("1gbit", "off")
QUICK = ("idle", "redis-64")
#: busy-20 answers one question, which one way is asked.
ONLY = {"busy-20": ("auto",)}


#: What the targets are judged by.
JUDGED = (
    ("idle", "auto"),
    ("redis-256", "auto"),
    ("redis-1024", "auto"),
    ("redis-1024", "lazy-pages"),
    ("redis-4096", "auto"),
    ("half-zero", "auto"),
)


def pairs(workloads: list[str], modes: list[str], *, judged: bool = False) -> list[tuple[str, str]]:
    """What to run once, in order: of one workload all modes, so that they meet the same noise."""
    every = [(w, m) for w in workloads for m in modes if m in ONLY.get(w, modes)]
    return [pair for pair in every if pair in JUDGED] if judged else every
