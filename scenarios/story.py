"""A story: a workload moved in a lab of its own, and its result held against what is expected."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from migrator.lab import lab
from scenarios.by_migrator import ByMigrator
from scenarios.errors import ScenarioFailed
from scenarios.workload import (
    Listener,
    Outcome,
    Workload,
    migrate_under_observation,
)

_STORIES = Path(__file__).parent


class Story(Protocol):
    """What a story's run.py has."""

    #: in one line, what it shows
    SUMMARY: str

    def workload(self) -> Workload:
        """What is moved."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a story. facts: as in its JSON; problems: empty when all was as expected."""

    facts: Mapping[str, Any]
    problems: list[str]


def names() -> list[str]:
    """Every story, by the name that a user types."""
    return sorted(path.parent.name.replace("_", "-") for path in _STORIES.glob("*/run.py"))


def load(name: str) -> Story:
    """The story called *name*; ScenarioFailed when there is none."""
    if name not in names():
        raise ScenarioFailed(f"no story {name}: there are {', '.join(names())}")
    return cast(Story, importlib.import_module(f"scenarios.{_package(name)}.run"))


def run(name: str, *, bandwidth: str, say: Listener = lambda _: None) -> Result:
    """Tell the story called *name* in a lab of that bandwidth, which is gone afterwards."""
    workload = load(name).workload()
    say(f"lab: two hosts and a client, {bandwidth}")
    with lab.up(f"story-{name}", bandwidth=bandwidth, owned=True) as up:
        outcome = migrate_under_observation(up, workload, ByMigrator(), say=say)
    facts = {"story": name, "bandwidth": bandwidth, **facts_of(outcome)}
    expected = json.loads((_STORIES / _package(name) / "expected.json").read_text())
    return Result(facts, [*outcome.observation.problems, *differences(expected, facts)])


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain JSON types."""
    seen = outcome.observation
    return {
        "silence_ms": round(seen.silence_ms, 2),
        "noise_ms": round(seen.noise_ms, 2),
        **seen.facts,
        "copies": dict(outcome.copies),
        "listed": {host: dict(found) for host, found in outcome.listed.items()},
        "migration": outcome.move.report or asdict(outcome.move),
    }


def differences(expected: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Where *facts* are not as *expected*, in words.

    Each expected value is the value itself, or {"at_least": x} or {"at_most": x}.
    """
    return [
        f"{name} is {facts.get(name)!r}, expected {wanted!r}"
        for name, wanted in expected.items()
        if not _as_expected(wanted, facts.get(name))
    ]


def _as_expected(wanted: Any, found: Any) -> bool:
    if not isinstance(wanted, dict) or not wanted.keys() <= {"at_least", "at_most"}:
        return bool(wanted == found)
    if found is None:
        return False
    return bool(wanted.get("at_least", found) <= found <= wanted.get("at_most", found))


def _package(name: str) -> str:
    return name.replace("-", "_")
