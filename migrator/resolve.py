"""Finish what a crash left of a migration, by the journals - at the source, at the destination, or
both.

At the source: without a commit the container is resumed and the destination told to discard; with
one, the destination is asked, and its answer is final: "running" ends the source, "dead" resumes
it. While it cannot be asked the source stays as it is. At the destination: what was not told to run
is removed. Idempotent.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator import incoming
from migrator.destination import DestinationAgent
from migrator.errors import MigrationError, OutcomeUnknown, UsageProblem
from migrator.journal import DESTINATION, SOURCE, Journal, exists, open_journal
from migrator.plan import Destination
from migrator.processes import await_death
from migrator.source import networks_of
from runtime import Container, NoSuchContainer
from runtime.checkpoint import unlock
from runtime.network import announce, reconnect
from runtime.state import check_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of it: side "source" or "destination"; runs: "here", "there" or "unknown"; note:
    one line.
    """

    container: str
    side: str
    runs: str
    note: str


def resolve(root: Path, container: str, *, wait_s: float = 5.0) -> Resolution:
    """Finish the unfinished migration of *container* that this host has a journal of.

    wait_s: for a migration that is just ending. Raises UsageProblem when there is none or one is at
    work, OutcomeUnknown when the destination cannot be asked; nothing was changed then.
    """
    check_id(container)
    for side, finish in ((SOURCE, _at_source), (DESTINATION, _at_destination)):
        if exists(root, container, side):
            with open_journal(root, container, side, wait_s=wait_s) as journal:
                if journal.entries:
                    return finish(root, container, journal)
                journal.remove()  # it died before it did anything
    raise UsageProblem(f"no migration of {container} is unfinished on this host")


def _at_source(root: Path, name: str, journal: Journal) -> Resolution:
    begin = journal.entries[0]
    await_death(*begin.data["criu"])  # its peer is gone: it resumes the container and ends
    destination = _destination(begin.data["destination"])
    if journal.has("moved"):
        return _ended(root, name, journal)
    if not journal.has("commit"):
        note = _tell_to_discard(destination, begin.data["migration"], name)
        return _resumed(root, name, journal, note)
    try:
        with DestinationAgent.open(destination) as agent:
            if agent.resolve(migration=begin.data["migration"], container=name) == "running":
                resolution = _ended(root, name, journal)
                with suppress(MigrationError):
                    agent.finish(migration=begin.data["migration"], container=name)
                return resolution
    except MigrationError as error:
        raise OutcomeUnknown(name, str(destination), str(error)) from error
    return _resumed(root, name, journal, f"{destination} could not run it")


def _resumed(root: Path, name: str, journal: Journal, note: str) -> Resolution:
    """Let the source run on: thawed, its network unlocked and known to the switches."""
    container = Container.load(root, name)
    unlock(container)
    container.cgroup.thaw()
    reconnect(networks_of(container), container.id)
    if container.status().has_init:
        announce(container.netns_path)
    _forget(journal)
    return Resolution(name, SOURCE, "here", note)


def _ended(root: Path, name: str, journal: Journal) -> Resolution:
    """The destination has it: nothing of it may be left here."""
    with suppress(NoSuchContainer):
        container = Container.load(root, name)
        container.cgroup.kill_all()
        container.delete(force=True)
    _forget(journal)
    return Resolution(
        name, SOURCE, "there", "it runs at the destination; what was left of it here is removed"
    )


def _at_destination(root: Path, name: str, journal: Journal) -> Resolution:
    outcome = incoming.settle(root, journal)
    if outcome == "running":
        return Resolution(
            name, DESTINATION, "here", "it runs here; its source may still ask for this record"
        )
    journal.remove()
    return Resolution(
        name, DESTINATION, "there", "it was not told to run here; what was made of it is removed"
    )


def _tell_to_discard(destination: Destination, migration: str, name: str) -> str:
    try:
        with DestinationAgent.open(destination) as agent:
            agent.resolve(migration=migration, container=name)
    except MigrationError as error:
        return (
            f"{destination} could not be told to discard its part ({error}); run migrator resolve "
            f"{name} there"
        )
    return "it was not committed: it runs here as before"


def _forget(journal: Journal) -> None:
    shutil.rmtree(journal.entries[0].data["images_dir"], ignore_errors=True)
    journal.remove()


def _destination(data: dict[str, Any]) -> Destination:
    paths = {key: Path(data[key]) if data[key] else None for key in ("ssh_config", "identity")}
    return Destination(**{**data, **paths})
