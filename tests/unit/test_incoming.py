"""What a destination makes of a dead migration's journal, and that its answer is final."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from migrator import incoming, processes, settling
from migrator import messages as m
from migrator.errors import UsageProblem
from migrator.journal import DESTINATION, exists, open_journal, peek
from runtime import ContainerExists, Stdio
from runtime.checkpoint.descriptors import Descriptor, Kind
from runtime.checkpoint.records import Record


@pytest.fixture
def sleeper():
    """A live process, ended after the test."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def dead() -> list[int]:
    """The identity of a process that is no more."""
    process = subprocess.Popen(["sleep", "60"])
    identity = processes.identity(process.pid)
    process.kill()
    process.wait()
    return identity


@pytest.fixture
def left(tmp_path):
    """Writes the journal of a migration a1 of c1 that reached *steps*; returns what it made."""

    def write(*steps: str, agent: list[int] | None = None, init: list[int] | None = None):
        images, bundle = tmp_path / "images", tmp_path / "srv" / "c1"
        images.mkdir(parents=True)
        (bundle / "rootfs").mkdir(parents=True)
        data = {
            "prepared": {
                "migration": "a1",
                "container": "c1",
                "agent": agent or dead(),
                "remove": [str(bundle)],
                "parents": [str(bundle.parent)],
                "images_dir": str(images),
            },
            "armed": {"criu": dead()},
            "restored": {"init": init or dead()},
        }
        with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
            for step in steps:
                journal.write(step, **data.get(step, {}))
        return images, bundle

    return write


def steps_of(tmp_path):
    return [entry.step for entry in peek(tmp_path / "root", "c1", DESTINATION)]


@pytest.mark.parametrize(
    "steps", [["prepared"], ["prepared", "armed"], ["prepared", "armed", "restored"]]
)
def test_without_run_everything_that_was_made_is_removed(tmp_path, left, steps):
    images, bundle = left(*steps)
    with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
        assert settling.settle(tmp_path / "root", journal) == "dead"
    assert not images.exists()
    assert not bundle.parent.exists()
    assert steps_of(tmp_path)[-1] == "dead"


def test_a_restored_but_uncommitted_process_is_killed(tmp_path, left, sleeper):
    left("prepared", "armed", "restored", init=processes.identity(sleeper.pid))
    with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
        assert settling.settle(tmp_path / "root", journal) == "dead"
    assert sleeper.wait(5) == -9


def test_run_and_alive_is_running_for_good(tmp_path, left, sleeper):
    images, bundle = left(
        "prepared", "armed", "restored", "run", init=processes.identity(sleeper.pid)
    )
    with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
        assert settling.settle(tmp_path / "root", journal) == "running"
        sleeper.kill()
        sleeper.wait()
        assert settling.settle(tmp_path / "root", journal) == "running"
    assert bundle.exists()
    assert not images.exists()


def test_run_and_not_alive_is_dead_for_good(tmp_path, left):
    _, bundle = left("prepared", "armed", "restored", "run")
    with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
        assert settling.settle(tmp_path / "root", journal) == "dead"
        assert settling.settle(tmp_path / "root", journal) == "dead"
    assert not bundle.exists()


def test_a_source_that_asks_kills_an_agent_that_was_not_told_to_run(tmp_path, left, sleeper):
    left("prepared", "armed", agent=processes.identity(sleeper.pid))
    assert settling.fence(tmp_path / "root", "c1", "a1") == "dead"
    assert sleeper.wait(5) == -9
    assert not exists(tmp_path / "root", "c1", DESTINATION)


def test_an_agent_that_was_told_to_run_is_not_killed(tmp_path, left, sleeper):
    identity = processes.identity(sleeper.pid)
    left("prepared", "armed", "restored", "run", agent=identity, init=identity)
    assert settling.fence(tmp_path / "root", "c1", "a1") == "running"
    assert sleeper.poll() is None


def test_running_is_answered_again_and_again_until_the_source_is_done(tmp_path, left, sleeper):
    left("prepared", "armed", "restored", "run", init=processes.identity(sleeper.pid))
    assert settling.fence(tmp_path / "root", "c1", "a1") == "running"
    assert settling.fence(tmp_path / "root", "c1", "a1") == "running"
    settling.forget(tmp_path / "root", "c1", "a1")
    assert not exists(tmp_path / "root", "c1", DESTINATION)


def test_another_migrations_record_is_left_alone(tmp_path, left, sleeper):
    images, _ = left("prepared", agent=processes.identity(sleeper.pid))
    assert settling.fence(tmp_path / "root", "c1", "a2") == "dead"
    settling.forget(tmp_path / "root", "c1", "a2")
    assert sleeper.poll() is None
    assert images.exists()
    assert steps_of(tmp_path) == ["prepared"]


def test_a_live_migration_is_not_settled_by_another(tmp_path, left):
    left("prepared")
    with (
        open_journal(tmp_path / "root", "c1", DESTINATION),
        pytest.raises(UsageProblem, match="at work"),
    ):
        open_journal(tmp_path / "root", "c1", DESTINATION)


def test_parents_are_removed_only_if_nothing_else_came_to_lie_there(tmp_path):
    parents = incoming.missing_parents(tmp_path / "srv" / "a" / "rootfs", tmp_path / "srv" / "a")
    assert parents == [str(tmp_path / "srv" / "a"), str(tmp_path / "srv")]
    assert incoming.missing_parents(tmp_path / "c") == []


def test_a_container_that_a_migration_has_brought_is_not_forgotten_for_another(
    tmp_path, left, sleeper
):
    """Its source may still serve its pages: it finds them by that record."""
    left("prepared", "arming", "armed", "restored", "run", init=processes.identity(sleeper.pid))
    (tmp_path / "root" / "c1").mkdir()
    fields = dict.fromkeys(m.Prepare.__annotations__, "")
    bundle = str(tmp_path / "bundle")
    request = m.Prepare(
        **fields | {"migration": "b2", "container": "c1", "bundle": bundle, "rootfs": bundle}
    )
    for _ in range(2):  # nor does it keep the record to itself
        with pytest.raises(ContainerExists):
            incoming.Incoming(tmp_path / "root", request, criu=None)
    assert steps_of(tmp_path)[-1] == "running"


def test_what_is_there_is_not_new(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "empty").mkdir()
    new = [incoming.is_new(tmp_path / name) for name in ("there", "empty", "missing")]
    assert new == [False, True, True]


def test_a_later_migration_does_not_make_a_running_one_forgotten(tmp_path, left, sleeper):
    left("prepared", "armed", "restored", "run", init=processes.identity(sleeper.pid))
    with open_journal(tmp_path / "root", "c1", DESTINATION) as journal:
        assert settling.settle(tmp_path / "root", journal) == "running"
        journal.keep()
        journal.clear()
        journal.write("prepared", migration="a2", agent=dead())
    assert settling.fence(tmp_path / "root", "c1", "a1") == "running"
    settling.forget(tmp_path / "root", "c1", "a1")
    assert settling.fence(tmp_path / "root", "c1", "a1") == "dead"


def stdout_at(link: str) -> Record:
    """What is said of a container whose standard output is the file at *link*."""
    inside, output = Descriptor(Kind.INSIDE), Descriptor(Kind.FILE, link, "file[1:2]")
    return Record(container_id="c1", spec_sha256="", descriptors=(inside, output, inside))


@pytest.mark.parametrize("link", ["", "log", "/dev/null", "/no/such/log"])
def test_a_standard_file_without_a_path_here_is_the_null_device(link: str) -> None:
    """Without a path: the log was removed, or another file has taken its place since."""
    assert incoming.standard_streams(stdout_at(link)) == Stdio()


def test_a_standard_file_is_opened_by_its_path(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert incoming.standard_streams(stdout_at(str(log))) == Stdio(stdout=log)
