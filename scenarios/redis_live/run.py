"""A live Redis moves: 64 MiB of keys, and a client that writes over one connection meanwhile."""

from __future__ import annotations

from scenarios.redis_live.workload import RedisWorkload

SUMMARY = "a Redis with 64 MiB and a connected, writing client moves without losing a write"


def workload() -> RedisWorkload:
    """What is moved."""
    return RedisWorkload(fill_mib=64)
