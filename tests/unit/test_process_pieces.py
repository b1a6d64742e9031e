"""The small decisions on the way to a process: limits, devices, search path, undo."""

import stat
from pathlib import Path

import pytest

from runtime import rlimits
from runtime.errors import SetupFailed
from runtime.process.program import find_program
from runtime.process.waiting import exit_status
from runtime.reserve import preserved
from runtime.rootfs import devices
from runtime.spec.model import Device, Mount, Rlimit
from runtime.undo import Undo


def test_every_resource_limit_has_its_number() -> None:
    limits = [Rlimit("RLIMIT_NOFILE", 10, 20), Rlimit("RLIMIT_AS", 1, 2**64 - 1)]
    assert rlimits.plan(limits) == [(7, 10, 20), (9, 1, 2**64 - 1)]


def test_default_devices_are_there_and_can_be_replaced() -> None:
    nodes, links = devices.plan([Device("p", "/dev/null", file_mode=0o600, uid=7)], [])
    by_path = {node["path"]: node for node in nodes}
    assert stat.S_ISFIFO(by_path["/dev/null"]["mode"])
    assert by_path["/dev/null"]["uid"] == 7
    assert (by_path["/dev/tty"]["major"], by_path["/dev/tty"]["minor"]) == (5, 0)
    assert ("pts/ptmx", "/dev/ptmx") in links


def test_the_multiplexer_of_terminals_is_that_of_the_container_s_devpts() -> None:
    nodes, links = devices.plan([Device("c", "/dev/ptmx", 5, 2)], [])
    assert "/dev/ptmx" not in {node["path"] for node in nodes}
    assert ("pts/ptmx", "/dev/ptmx") in links


def test_the_type_bits_of_a_file_mode_are_those_of_the_type() -> None:
    nodes, _ = devices.plan([Device("b", "/dev/sda", 8, 0, file_mode=0o20644)], [])
    assert nodes[-1]["mode"] == stat.S_IFBLK | 0o644


@pytest.mark.parametrize("destination", ["/dev", "dev", "/dev/"])
def test_nothing_is_made_in_a_dev_of_the_host(destination: str) -> None:
    bound = Mount(destination, "bind", "/dev", ("rbind",))
    assert devices.plan([Device("c", "/dev/x", 1, 1)], [bound]) == ([], [])


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    (tmp_path / "denied").mkdir()
    (tmp_path / "found").mkdir()
    (tmp_path / "denied/tool").touch(mode=0o644)
    (tmp_path / "found/tool").touch(mode=0o755)
    (tmp_path / "denied/locked").touch(mode=0o644)
    return tmp_path


def test_a_program_is_searched_in_the_order_of_path(programs: Path) -> None:
    search = f"{programs}/none:{programs}/denied:{programs}/found"
    assert find_program("tool", search) == f"{programs}/found/tool"


def test_a_program_that_is_nowhere_is_told_in_the_words_that_docker_reads(programs: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"executable file not found in \$PATH") as raised:
        find_program("nope", f"{programs}/found")
    assert raised.value.filename == "nope"


def test_a_program_that_may_not_be_executed_is_told_apart(programs: Path) -> None:
    with pytest.raises(PermissionError):
        find_program("locked", f"{programs}/denied:{programs}/found")
    with pytest.raises(PermissionError):
        find_program(f"{programs}/denied/locked", "")
    with pytest.raises(PermissionError):
        find_program(f"{programs}/found", "")
    with pytest.raises(FileNotFoundError):
        find_program(f"{programs}/none", "")


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (9, 137), (15, 143)])
def test_an_exit_status_is_what_a_shell_would_say(status: int, code: int) -> None:
    assert exit_status(status) == code


def test_a_descriptor_that_is_not_open_cannot_be_preserved() -> None:
    with pytest.raises(SetupFailed, match=r"descriptor \d+ is not open"):
        preserved(2000)
    assert preserved(0) == ()


class Sequence:
    def __init__(self) -> None:
        self.done: list[str] = []

    def note(self, name: str) -> None:
        self.done.append(name)

    def fail(self) -> None:
        raise OSError("the disk is gone")


def test_what_was_done_is_undone_last_first() -> None:
    sequence = Sequence()

    def attempt() -> None:
        with Undo() as undo:
            undo.on_error(sequence.note, "first")
            undo.on_error(sequence.note, "second")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        attempt()
    assert sequence.done == ["second", "first"]


def test_nothing_is_undone_when_nothing_failed() -> None:
    sequence = Sequence()
    with Undo() as undo:
        undo.on_error(sequence.note, "undone")
        undo.callback(sequence.note, "always")
    assert sequence.done == ["always"]


def test_an_undo_that_fails_is_a_note_on_the_first_error() -> None:
    sequence = Sequence()

    def attempt() -> None:
        with Undo() as undo:
            undo.on_error(sequence.note, "rest")
            undo.on_error(sequence.fail)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no") as raised:
        attempt()
    assert raised.value.__notes__ == ["undoing failed too: the disk is gone"]
    assert sequence.done == ["rest"]
