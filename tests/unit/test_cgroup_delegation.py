"""Whose a container's cgroup is: decided by the spec alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.cgroups import CgroupManager, delegation
from runtime.spec.reading import parse

CGROUP = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid"],
}
READ_ONLY = CGROUP | {"options": ["ro"]}
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 10}]
KINDS = ("mount", "user", "cgroup")


def owner(*kinds: str, mounts: Any = (CGROUP,), uid: int = 0) -> int | None:
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    if "user" in kinds:
        linux |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    process = {"args": ["sh"], "cwd": "/", "user": {"uid": uid, "gid": 0}}
    data = {"ociVersion": "1.2.0", "root": {"path": "r"}, "process": process}
    return delegation.owner(parse({**data, "mounts": list(mounts), "linux": linux}))


def test_it_is_the_user_s_who_sees_it_writable_as_its_root() -> None:
    assert owner(*KINDS) == 100000
    assert owner(*KINDS, uid=7) == 100007
    assert owner(*KINDS, mounts=(READ_ONLY, CGROUP)) == 100000


@pytest.mark.parametrize(
    ("kinds", "mounts"),
    [
        (("mount", "user"), (CGROUP,)),
        (("mount", "cgroup"), (CGROUP,)),
        (KINDS, (READ_ONLY,)),
        (KINDS, ()),
    ],
)
def test_else_it_stays_as_it_is(kinds: tuple[str, ...], mounts: Any) -> None:
    assert owner(*kinds, mounts=mounts) is None


@pytest.mark.needs_root
def test_what_the_kernel_lists_is_given_away(tmp_path: Path) -> None:
    for name in ("cgroup.procs", "memory.max"):
        (tmp_path / name).touch()
    cgroup = cast(CgroupManager, SimpleNamespace(paths={"": tmp_path}))
    delegation.delegate(cgroup, 1234)
    assert tmp_path.stat().st_uid == (tmp_path / "cgroup.procs").stat().st_uid == 1234
    assert (tmp_path / "memory.max").stat().st_uid == 0
    delegation.delegate(cast(CgroupManager, SimpleNamespace(paths={"pids": tmp_path})), 7)
    assert tmp_path.stat().st_uid == 1234
