"""Finish what a crash left of a migration, by the journals of either side.

At the source: without a commit the container is resumed and the destination told to discard; with
one, the destination is asked, and its answer is final: "running" ends the source (after a post-copy
when its memory has been served to the end), "dead" resumes it. While it cannot be asked the source
stays as it is. At the destination: what was not told to run is removed. Idempotent.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from criu_rpc.logger import Logger
from migrator import processes
from migrator.bandwidth import Limiter
from migrator.destination import DestinationAgent
from migrator.errors import (
    CopyLost,
    MigrationError,
    OutcomeUnknown,
    PagesLost,
    StillNeeded,
    UsageProblem,
)
from migrator.journal import DESTINATION, SOURCE, Journal, exists, open_journal
from migrator.plan import Destination
from migrator.serving import FrozenSpaces, Link, Serving
from migrator.settling import settle
from runtime import Container, NoSuchContainer
from runtime.cgroups import throttle
from runtime.checkpoint.dump import unlock
from runtime.network import Networks, announce, reconnect
from runtime.state import check_id

logger = Logger(__name__)

#: longer than a guardian takes to find that a destination cannot be reached
PATIENCE_S = 20.0
#: how long a destination that waits for pages may be away: the guardian asks again and again
SERVE_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of it: side "source" or "destination"; runs: "here", "there" or "nowhere"; note:
    one line.
    """

    container: str
    side: str
    runs: str
    note: str


def resolve(
    root: Path, container: str, *, wait_s: float = PATIENCE_S, force_source: bool = False
) -> Resolution:
    """Finish the unfinished migration of *container* that this host has a journal of.

    wait_s: for a migration that is just ending, or a guardian that asks; force_source: resume a
    committed source without asking - two copies run if the destination has it. Raises UsageProblem
    when there is none, AtWork when somebody else is at it, OutcomeUnknown when the destination
    cannot be asked; nothing was changed then.
    """
    check_id(container)
    for side, finish in ((SOURCE, _at_source), (DESTINATION, _at_destination)):
        if exists(root, container, side):
            with open_journal(root, container, side, wait_s=wait_s) as journal:
                if journal.entries:
                    return finish(root, container, journal, force=force_source)
                journal.remove()  # it died before it did anything
    raise UsageProblem(f"no migration of {container} is unfinished on this host")


def _at_source(root: Path, name: str, journal: Journal, *, force: bool) -> Resolution:
    begin = journal.entries[0].data
    destination = Destination.from_json(begin["destination"])
    if journal.has("moved"):
        return _ended(root, name, journal)
    if not journal.has("commit"):
        resolution = _resumed(root, name, journal, "it was not committed: it runs here as before")
        return replace(resolution, note=_tell_to_discard(destination, begin["migration"], name))
    if force:
        return _resumed(root, name, journal, "it was resumed here by force")
    if journal.has("serving"):
        return _served(root, name, journal)
    try:
        with DestinationAgent.open(destination) as agent:
            agent.ensure_is(begin["machine"])
            if agent.resolve(migration=begin["migration"], container=name) == "running":
                if _left(journal):
                    _note(journal, "serving")
                    return _served(root, name, journal, agent)
                resolution = _ended(root, name, journal)
                with suppress(MigrationError):
                    agent.finish(migration=begin["migration"], container=name)
                return resolution
    except (StillNeeded, CopyLost, PagesLost):
        raise
    except MigrationError as error:
        raise OutcomeUnknown(name, str(destination), str(error)) from error
    return _resumed(root, name, journal, f"{destination} could not run it: it runs here again")


def _left(journal: Journal) -> list[list[int]]:
    """Post-copy: pid and start time of those whose memory the destination has only in part."""
    commit = journal.last("commit")
    left: list[list[int]] = commit.data.get("left", []) if commit else []
    return left


def _served(
    root: Path, name: str, journal: Journal, agent: DestinationAgent | None = None
) -> Resolution:
    """It runs there, its memory is here: serve that, frozen as it is, then end it."""
    begin = journal.entries[0].data
    destination, migration = Destination.from_json(begin["destination"]), begin["migration"]
    if lost := journal.last("lost"):
        if _that_container(root, name, journal) is None:
            _forget(journal)
            return Resolution(name, SOURCE, "nowhere", "it was lost, and is deleted here too")
        raise CopyLost(name, str(destination), lost.data["why"])
    link = Link(destination, begin["machine"], migration=migration, container=name, agent=agent)
    memory = FrozenSpaces((pid, start_time) for pid, start_time in _left(journal))
    try:
        Serving(memory, Limiter(begin.get("bandwidth"))).until_complete(
            link, patience_s=SERVE_PATIENCE_S, check=lambda: None
        )
        _note(journal, "moved")
        resolution = _ended(root, name, journal)
        link.finish()
    except (CopyLost, PagesLost) as error:
        _note(journal, "lost", why=error.why)
        link.finish()
        raise
    finally:
        memory.close()
        link.close()
    return resolution


def _note(journal: Journal, step: str, **data: Any) -> None:
    """Past the commit: what is not written, for the disk is full, will be asked again."""
    with suppress(OSError):
        journal.write(step, **data)


def _resumed(root: Path, name: str, journal: Journal, note: str) -> Resolution:
    """Let the source run on: thawed, its network unlocked and known to the switches."""
    if dumping := journal.last("dumping"):
        # its peer is gone: CRIU resumes what it holds, and ends
        processes.await_death(*dumping.data["criu"])
    container = _that_container(root, name, journal)
    if container is not None:
        unlock(container)
        container.cgroup.thaw()
        if slowed := journal.last("slow down"):
            throttle.restore(slowed.data["former"])
        reconnect(Networks.of(container.state), container.id)
        if container.status().has_init:
            announce(container.netns_path)
    _forget(journal)
    return Resolution(name, SOURCE, "here", note)


def _ended(root: Path, name: str, journal: Journal) -> Resolution:
    """The destination has it: nothing of it may be left here."""
    container = _that_container(root, name, journal)
    if container is not None:
        container.cgroup.kill_all()
        container.delete(force=True)
    _forget(journal)
    return Resolution(
        name, SOURCE, "there", "it runs at the destination; what was left of it here is removed"
    )


def _that_container(root: Path, name: str, journal: Journal) -> Container | None:
    """The container that the journal speaks of, none when it is gone or the name is another's."""
    try:
        container = Container.load(root, name)
    except NoSuchContainer:
        return None
    state = container.state
    is_it = [state.init_pid, state.init_start_time] == journal.entries[0].data["init"]
    return container if is_it else None


def _at_destination(root: Path, name: str, journal: Journal, *, force: bool) -> Resolution:
    outcome = settle(root, journal)
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
