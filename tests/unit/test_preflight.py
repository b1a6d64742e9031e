"""What a destination is asked before anything is touched."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrator import preflight
from migrator.messages import Preflight
from migrator.plan import Destination, Plan
from runtime import State, lsm


def preflight_for(tmp_path: Path, **wanted: Any) -> list[str]:
    """What a host without a criu says of what is *wanted*."""
    nothing = Preflight(
        container="mig-test",
        bundle=str(tmp_path),
        rootfs=str(tmp_path / "rootfs"),
        rootfs_mode="shared",
        rootfs_bytes=0,
        memory_bytes=0,
        machine="",
        criu_version=[0, 0, 0],
        cpuinfo="",
        cgroup_version="",
        systemd=False,
        namespaces=[],
        user_namespace=False,
        bridges=[],
        mount_sources=[],
        profiles=[],
        console_socket="",
    )
    return preflight.check(replace(nothing, **wanted), tmp_path, str(tmp_path / "no criu"))


def test_systemd_is_asked_for_where_it_has_made_the_cgroup(tmp_path: Path) -> None:
    reasons = preflight_for(tmp_path, systemd=True)
    told = any("it does not run systemd" in each for each in reasons)
    assert told is not Path("/run/systemd/system").is_dir()  # sd_booted(3)


def test_a_file_system_that_is_mounted_read_only_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "not/there"
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    reasons = preflight_for(tmp_path, rootfs_mode="sync", bundle=str(bundle))
    assert [each for each in reasons if "written" in each] == [
        f"{tmp_path} cannot be written to: mount it writable",
        f"{tmp_path} cannot be written to: mount it writable, or give --bundle PATH",
    ]


@pytest.mark.parametrize(
    ("asked", "served", "otherwise"),
    [
        ("auto", "hybrid", "pre-copy"),
        ("hybrid", "hybrid", None),
        ("pre-copy", "pre-copy", "pre-copy"),
        ("post-copy", "post-copy", None),
        ("cold", "cold", "cold"),
    ],
)
def test_the_mode_is_one_that_the_destination_can_do(
    asked: str, served: str, otherwise: str | None
) -> None:
    destination = Destination(host="beta")
    plan = Plan(container="mig-test", root=Path("/run"), destination=destination, mode=asked)
    assert plan.chosen_mode(True) == (served, [])
    mode, against = plan.chosen_mode(False)
    assert (mode if not against else None) == otherwise
    assert all("give --mode pre-copy" in why for why in against)


def test_a_profile_has_to_be_loaded_where_there_is_apparmor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # securityfs, as a host with AppArmor has it
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "profiles").write_text("one (enforce)\none//hat (complain)\nits own (unconfined)\n")
    monkeypatch.setattr(lsm, "_APPARMOR", tmp_path)
    monkeypatch.setattr(lsm, "_APPARMOR_ENABLED", tmp_path / "enabled")
    monkeypatch.setattr(lsm, "_LOADED", tmp_path / "profiles")
    there = ["", "unconfined", "one", "one//hat", "one//&its own", ":space://other"]
    reasons = preflight_for(tmp_path, profiles=[*there, "two", "one//&three"])
    assert [each for each in reasons if "AppArmor" in each] == [
        "AppArmor profile two is not loaded: load it first",
        "AppArmor profile three is not loaded: load it first",
    ]
    (tmp_path / "enabled").write_text("N\n")
    reasons = preflight_for(tmp_path, profiles=[*there[:3]])
    assert [each for each in reasons if "AppArmor" in each] == [
        "AppArmor is not enabled, which enforces its profile one"
    ]


def test_whether_systemd_makes_the_cgroup_there_is_for_the_caller_to_say() -> None:
    made = state_of(systemd_cgroup=True)
    assert [preflight.with_systemd(plan(said), made) for said in (None, True, False)] == [
        *(True, True, False),
    ]
    assert preflight.with_systemd(plan(True), state_of(systemd_cgroup=False))


def plan(systemd_cgroup: bool | None) -> Plan:
    destination = Destination.parse("beta")
    return Plan(
        container="c", root=Path("/r"), destination=destination, systemd_cgroup=systemd_cgroup
    )


def state_of(**facts: Any) -> State:
    return State("c", "1.2.0", Path("/b"), Path("/b/rootfs"), {}, "", **facts)
