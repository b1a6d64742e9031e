"""What a destination is asked before anything is touched."""

from pathlib import Path

import pytest

from migrator import preflight
from migrator.messages import Preflight
from migrator.plan import Destination, Plan


def test_systemd_is_asked_for_where_it_has_made_the_cgroup(tmp_path: Path) -> None:
    wanted = Preflight(
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
        systemd=True,
        namespaces=[],
        user_namespace=False,
        bridges=[],
        mount_sources=[],
    )
    reasons = preflight.check(wanted, tmp_path, str(tmp_path / "no criu"))
    told = any("it does not run systemd" in each for each in reasons)
    assert told is not Path("/run/systemd/system").is_dir()  # sd_booted(3)


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
