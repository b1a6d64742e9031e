"""The journal: what was written survives, a torn line was never written, one holder at a time."""

from __future__ import annotations

import os
import shutil

import pytest

from migrator.errors import MigrationError, UsageProblem
from migrator.journal import (
    DESTINATION,
    SOURCE,
    exists,
    identity,
    journal_path,
    open_journal,
    peek,
)


def test_entries_survive_a_new_opening(tmp_path):
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        journal.write("begin", migration="m1", criu=[1, 2])
        journal.write("commit")
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        assert [entry.step for entry in journal.entries] == ["begin", "commit"]
        assert journal.last("begin").data == {"migration": "m1", "criu": [1, 2]}
        assert journal.has("commit")
        assert not journal.has("moved")


def test_both_sides_of_one_container_are_apart(tmp_path):
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        journal.write("begin")
        with open_journal(tmp_path, "c1", DESTINATION) as other:
            assert other.entries == []


def test_a_torn_line_was_never_written(tmp_path):
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        journal.write("begin")
    path = journal_path(tmp_path, "c1", SOURCE)
    path.write_bytes(path.read_bytes() + b'{"step":"com')
    assert [entry.step for entry in peek(tmp_path, "c1", SOURCE)] == ["begin"]
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        journal.write("commit")
    assert [entry.step for entry in peek(tmp_path, "c1", SOURCE)] == ["begin", "commit"]


def test_a_second_holder_is_refused_while_the_first_works(tmp_path):
    with (
        open_journal(tmp_path, "c1", SOURCE),
        pytest.raises(UsageProblem, match="a migration of c1 is at work"),
    ):
        open_journal(tmp_path, "c1", SOURCE)
    open_journal(tmp_path, "c1", SOURCE).close()


def test_a_removed_journal_is_no_record(tmp_path):
    with open_journal(tmp_path, "c1", SOURCE) as journal:
        journal.write("begin")
        assert exists(tmp_path, "c1", SOURCE)
        journal.remove()
    assert not exists(tmp_path, "c1", SOURCE)
    assert peek(tmp_path, "c1", SOURCE) == []


def test_a_line_that_is_no_entry_is_named(tmp_path):
    path = journal_path(tmp_path, "c1", SOURCE)
    path.parent.mkdir()
    path.write_text('{"step": "begin", "time": 1}\n[]\n')
    with pytest.raises(MigrationError, match="line 2"):
        open_journal(tmp_path, "c1", SOURCE)


def test_a_journal_is_no_symlink(tmp_path):
    path = journal_path(tmp_path, "c1", SOURCE)
    path.parent.mkdir()
    (tmp_path / "victim").write_text("")
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        open_journal(tmp_path, "c1", SOURCE)


def test_its_directory_is_private(tmp_path):
    open_journal(tmp_path, "c1", SOURCE).close()
    assert os.stat(tmp_path / "migrations").st_mode & 0o077 == 0


def test_records_that_were_lost_are_others(tmp_path):
    first = identity(tmp_path)
    assert first == identity(tmp_path) != ""
    assert os.listdir(tmp_path / "migrations") == [".identity"]
    shutil.rmtree(tmp_path / "migrations")
    assert identity(tmp_path) not in ("", first)


def test_without_room_for_records_there_is_no_identity(tmp_path):
    (tmp_path / "migrations").touch()
    assert identity(tmp_path) == ""
