"""A story's result in words: what a reader wants to know first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LABELS = {
    "acknowledged_before": "writes acknowledged before it",
    "acknowledged_after": "writes acknowledged after it",
    "compared": "keys read back and compared",
    "lost": "of them lost or changed",
    "connection": "the client's connection",
    "ticks": "ticks counted",
    "pages_written": "pages written",
    "pages_compared": "pages compared",
    "pages_wrong": "of them not as written",
}


def answers(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Label and answer, in the order in which they are to be read."""
    yield "longest silence", f"{facts['silence_ms']:.1f} ms"
    yield "the observer's own delay", f"{facts['noise_ms']:.1f} ms at most"
    for name, label in _LABELS.items():
        if name in facts:
            yield label, str(facts[name])
    for host, copies in facts["copies"].items():
        yield f"on {host}", f"{_copies(copies)}; listed: {_listed(facts['listed'][host])}"
    migration = facts["migration"]
    yield "frozen", f"{migration['downtime_ms']:.1f} ms"
    mib = migration["bytes"] / (1 << 20)
    yield "moved", f"{mib:.1f} MiB in {migration['total_ms'] / 1000:.2f} s, {facts['bandwidth']}"


def rounds(migration: Mapping[str, Any]) -> Iterator[str]:
    """A line for each round of copying while the container ran."""
    for a_round in (migration.get("memory") or {}).get("rounds", ()):
        mib = a_round["bytes"] / (1 << 20)
        yield (
            f"round {a_round['number']}: {a_round['pages']} pages, {mib:.1f} MiB "
            f"in {a_round['seconds']:.2f} s, {a_round['dirty_pages']} written meanwhile "
            f"-> {a_round['why']}"
        )


def _copies(count: int) -> str:
    return {0: "not running", 1: "running"}.get(count, f"running {count} times")


def _listed(containers: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({status})" for name, status in containers.items()) or "nothing"
