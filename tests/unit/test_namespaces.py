"""Which namespaces are made and which joined."""

import os
from pathlib import Path

import pytest

from runtime import namespaces
from runtime.constants import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUTS,
)
from runtime.errors import SetupFailed
from runtime.spec.model import Namespace, TimeOffset


def test_a_new_pid_namespace_begins_with_the_fork_and_the_others_before_it() -> None:
    own = [Namespace(kind) for kind in ("mount", "pid", "uts")]
    plan = namespaces.plan(own, {})
    assert plan["clone"] == CLONE_NEWPID
    assert plan["unshare"] == CLONE_NEWNS | CLONE_NEWUTS
    assert plan["join"] == []
    assert not plan["loopback"]


def test_only_a_new_network_namespace_has_a_loopback_to_bring_up() -> None:
    assert namespaces.plan([Namespace("network")], {})["loopback"]
    joined = namespaces.plan([Namespace("network", "/proc/self/ns/net")], {})
    assert not joined["loopback"]
    assert joined["join"] == [("/proc/self/ns/net", CLONE_NEWNET)]


def test_namespaces_are_joined_in_an_order_of_ours() -> None:
    listed = [Namespace("ipc", "/proc/self/ns/ipc"), Namespace("pid", "/proc/self/ns/pid")]
    plan = namespaces.plan(listed, {})
    assert [flag for _, flag in plan["join"]] == [CLONE_NEWPID, CLONE_NEWIPC]
    assert plan["clone"] == 0


def test_clocks_are_written_as_the_kernel_reads_them() -> None:
    offsets = {"monotonic": TimeOffset(5, 7), "boottime": TimeOffset(-1)}
    plan = namespaces.plan([Namespace("time")], offsets)
    assert plan["unshare"] == CLONE_NEWTIME
    assert plan["time_offsets"] == "monotonic 5 7\nboottime -1 0\n"


def test_a_namespace_of_another_type_is_refused() -> None:
    with pytest.raises(SetupFailed, match="network namespace: /proc/self/ns/uts is a uts"):
        namespaces.plan([Namespace("network", "/proc/self/ns/uts")], {})


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SetupFailed, match=f"{path} is not a namespace"):
        namespaces.check_path("network", str(path))
    with pytest.raises(SetupFailed, match="no such file"):
        namespaces.check_path("network", str(tmp_path / "none"))


def test_a_process_shares_all_namespaces_with_itself() -> None:
    assert namespaces.different(os.getpid()) == 0
    assert namespaces.paths_of(7)["network"] == "/proc/7/ns/net"
