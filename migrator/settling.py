"""What an agent that is gone has left at a destination: by its journal, finished or removed.

Whether the container runs here is looked up once, and then it is written down for good; what does
not run is removed, and of what runs the images, unless its source is still to serve it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from migrator import journal, processes
from migrator.journal import Journal
from migrator.pages.late import fate
from migrator.removal import remove_tree
from runtime import Container
from runtime.state import check_id, is_alive


def settle(root: Path, record: Journal) -> str:
    """Finish what an agent that is gone left: "running" when the container runs here, else "dead"
    for good.

    Call with the journal locked, its agent gone. Whatever is not running is removed: processes,
    container, images, and the bundle where this migration made it.
    """
    if not record.entries or record.has("dead"):
        return "dead"
    if record.has("running"):
        remove_images_unless_wanted(record)
        return "running"
    armed, restored = record.last("armed"), record.last("restored")
    if armed is not None and record.has("run"):
        processes.await_death(*armed.data["criu"])  # it lets run what it restored, or kills it
    elif armed is not None:
        processes.kill(*armed.data["criu"])
    if record.has("run") and restored is not None and is_alive(*restored.data["init"]):
        record.write("running")
        remove_images_unless_wanted(record)
        return "running"
    _remove(root, record)
    with suppress(OSError):  # who is asked again will find nothing that could live
        record.write("dead")
    return "dead"


def fence(root: Path, container: str, migration: str) -> str:
    """What became of *migration*, asked by its source after a crash: "running" or "dead", for good.

    An agent of it that is still there without a commit is killed, with it CRIU kills what it holds
    restored; one that was told to run is given the time to.
    """
    check_id(container)
    for _ in range(2):
        entries = journal.peek(root, container, journal.DESTINATION)
        prepared = next((entry for entry in entries if entry.step == "prepared"), None)
        if prepared is None or prepared.data.get("migration") != migration:
            return _kept(root, container, migration)
        if not any(entry.step == "run" for entry in entries):
            processes.kill(*prepared.data["agent"])
    with journal.open_journal(
        root, container, journal.DESTINATION, wait_s=processes.DEATH_TIMEOUT_S
    ) as record:
        if not record.entries:
            record.remove()  # somebody else has settled it meanwhile
        if not _is_of(record, migration):
            return _kept(root, container, migration)
        outcome = settle(root, record)
        if outcome == "dead":
            record.remove()
        return outcome


def forget(root: Path, container: str, migration: str) -> None:
    """The source is gone and knows that it runs here: remove the record."""
    check_id(container)
    journal.kept_path(root, container, migration).unlink(missing_ok=True)
    with journal.open_journal(
        root, container, journal.DESTINATION, wait_s=processes.DEATH_TIMEOUT_S
    ) as record:
        if not record.entries or _is_of(record, migration):
            remove_images(record)
            record.remove()


def _kept(root: Path, container: str, migration: str) -> str:
    """The answer about a migration that another one has followed."""
    return "running" if journal.kept_path(root, container, migration).exists() else "dead"


def _is_of(record: Journal, migration: str) -> bool:
    first = record.last("prepared")
    return first is not None and first.data.get("migration") == migration


def _remove(root: Path, record: Journal) -> None:
    prepared, restored = record.last("prepared"), record.last("restored")
    assert prepared is not None
    if restored is not None:
        processes.kill(*restored.data["init"])
    if record.has("arming") and not record.has("taken"):
        Container.remove(root, prepared.data["container"], force=True)
    remove_images(record)
    for path in prepared.data["remove"]:
        remove_tree(Path(path))
    for path in prepared.data["parents"]:
        with suppress(OSError):  # another container's bundle has come to lie there
            os.rmdir(path)


def remove_images(record: Journal) -> None:
    prepared = record.last("prepared")
    if prepared is not None:
        shutil.rmtree(prepared.data["images_dir"], ignore_errors=True)


def remove_images_unless_wanted(record: Journal) -> None:
    """A source that is away still finds by them who waits for its pages, or why nobody does."""
    prepared = record.last("prepared")
    state = fate(Path(prepared.data["images_dir"])) if prepared else "waiting"
    if state in ("waiting", "lost"):
        return
    with suppress(OSError):  # unwritten it would be lost with them
        if state == "filled":
            record.write("filled")
        remove_images(record)
