"""The resctrl group of a container, on a directory that looks like that filesystem."""

from pathlib import Path

import pytest

from runtime import resctrl_group
from runtime.errors import SetupFailed, UnsupportedField
from runtime.resctrl_group import Groups
from runtime.undo import Undo


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Groups whose files the kernel would make are there already."""
    for group in (".", "gold", "silver"):
        directory = tmp_path / group
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("tasks", "schemata"):
            (directory / name).touch()
    return tmp_path


def made(at: Path, **wanted: object) -> Groups:
    with Undo() as undo:
        return resctrl_group.make(wanted, "c1", at=at, undo=undo)


def test_a_named_group_is_joined_and_left_there(at: Path) -> None:
    assert made(at, closID="gold") == Groups([str(at / "gold")], [])
    assert (at / "gold/schemata").read_text() == ""


def test_the_root_group_is_named_by_a_slash(at: Path) -> None:
    assert made(at, closID="/") == Groups([str(at)], [])


def test_schemata_are_written_in_their_order_to_a_file_that_is_not_cut(at: Path) -> None:
    wanted = {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ("L2:0=3",)}
    (at / "silver/schemata").write_text("." * 40)
    made(at, closID="silver", **wanted)
    lines = "L3:0=f\nMB:0=20\nL2:0=3\n"
    assert (at / "silver/schemata").read_text() == lines.ljust(40, ".")


def test_a_container_without_a_name_for_it_has_a_group_of_its_own(at: Path) -> None:
    own = [str(at / "c1")]
    assert made(at) == Groups(own, own)


def test_a_group_without_schemata_has_to_be_there(at: Path) -> None:
    with pytest.raises(SetupFailed, match="lead: is to be there before"):
        made(at, closID="lead")


def test_what_the_kernel_refuses_is_told_in_its_words_and_undone(at: Path) -> None:
    (at / "info").mkdir()
    (at / "info/last_cmd_status").write_text("mask f0f has non-consecutive 1-bits\n")
    # a real mkdir there makes the files too
    with pytest.raises(SetupFailed, match=r"c1/schemata: no such file .*\(mask f0f has non-cons"):
        made(at, schemata=("L3:0=f0f",))
    assert not (at / "c1").exists()


def test_other_shares_are_written_for_the_group_of_a_process_and_taken_back(at: Path) -> None:
    (at / "gold/tasks").write_text("16\n17\n")
    file = at / "gold/schemata"
    file.write_text("    MB:0=50\n    L3:0=f\n")

    def fail() -> None:
        with Undo() as undo:
            resctrl_group.change(["L3:0=1", "MB:0=9"], 17, at=at, undo=undo)
            assert file.read_text().startswith("L3:0=1\nMB:0=9\n")  # a plain file is not cut
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert file.read_text().startswith("MB:0=50\nL3:0=f\n")


@pytest.mark.parametrize("mounted", [True, False])
def test_without_a_group_of_its_own_a_container_has_no_share_to_change(
    at: Path, mounted: bool
) -> None:
    with (
        pytest.raises(SetupFailed, match="no linux.intelRdt" if mounted else "no resctrl"),
        Undo() as undo,
    ):
        resctrl_group.change(["L3:0=1"], 17, at=at if mounted else None, undo=undo)


def test_what_was_made_for_one_container_is_removed(at: Path) -> None:
    (at / "c1").mkdir()
    resctrl_group.remove([str(at / "c1"), str(at / "gone")])
    assert not (at / "c1").exists()


def test_monitoring_of_a_container_has_its_group(at: Path) -> None:
    (at / "gold/mon_groups").mkdir()
    gold, monitored = str(at / "gold"), str(at / "gold/mon_groups/c1")
    # the kernel lets a process be monitored only below the group that it is in
    assert made(at, closID="gold", enableMonitoring=True) == Groups([gold, monitored], [monitored])


def test_a_host_without_it_is_named() -> None:
    why = r"linux.intelRdt: the resctrl filesystem is not"
    with pytest.raises(UnsupportedField, match=why), Undo() as undo:
        resctrl_group.make({}, "c1", at=None, undo=undo)
