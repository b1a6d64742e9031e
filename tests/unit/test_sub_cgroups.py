"""Which cgroups below a container's are asked for, and that none is elsewhere."""

from pathlib import Path

import pytest

from runtime.cgroups import sub
from runtime.cgroups.absent import NoCgroups
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager
from runtime.errors import CgroupError


def v1(tmp_path: Path) -> V1Manager:
    paths = {name: tmp_path / name for name in ("cpu", "memory", "pids")}
    for path in paths.values():
        path.mkdir()
        (path / "cgroup.procs").touch()
    return V1Manager(paths)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], {}),
        (["a/b"], {"": "a/b"}),
        (["memory:m", "cpu,cpuacct:c"], {"memory": "m", "cpu": "c", "cpuacct": "c"}),
    ],
)
def test_paths_are_for_all_controllers_or_for_those_named(
    texts: list[str], wanted: dict[str, str]
) -> None:
    assert sub.parse(texts) == wanted


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["a", "b"], "'a' has no CONTROLLER:"),
        ([":a"], "empty CONTROLLER"),
        (["cpu,:a"], "empty CONTROLLER"),
        (["cpu:a", "cpu:b"], "controller cpu is given more than once"),
    ],
)
def test_what_is_not_clear_is_refused(texts: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sub.parse(texts)


def test_a_process_comes_into_the_one_below_for_the_controllers_named(tmp_path: Path) -> None:
    cgroup = v1(tmp_path)
    (tmp_path / "memory/m").mkdir()
    (tmp_path / "memory/m/cgroup.procs").touch()
    sub.join(cgroup, 7, {"memory": "m"}, init_pid=0)
    written = {path: path.read_text() for path in tmp_path.glob("**/cgroup.procs")}
    assert {str(path.parent.relative_to(tmp_path)) for path in written if written[path]} == {
        "cpu",
        "memory/m",
        "pids",
    }
    assert set(written.values()) == {"7", ""}


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"": ".."}, "bad sub cgroup path"),
        ({"memory": "a/../../cpu"}, "bad sub cgroup path"),
        ({"": "none"}, r"adding pid 7 to cgroups: .*No such file"),
        ({"what": "/"}, "unknown controller what"),
    ],
)
def test_one_that_is_not_below_is_refused(wanted: dict[str, str], why: str, tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=why):
        sub.join(v1(tmp_path), 7, wanted, init_pid=0)


def test_below_none_there_is_none() -> None:
    sub.join(NoCgroups(), 7, {}, init_pid=0)
    with pytest.raises(CgroupError, match="no process comes into a: the container has no cgroup"):
        sub.join(NoCgroups(), 7, {"": "a"}, init_pid=0)


def test_on_v2_only_one_that_is_wanted_must_take_it(tmp_path: Path) -> None:
    cgroup = V2Manager({"": tmp_path / "gone"})
    with pytest.raises(CgroupError, match="adding pid 7 to cgroups"):
        sub.join(cgroup, 7, {"": "/"}, init_pid=1)
