"""Which mounts receive what is mounted on the host, and which of them no restore could make."""

from typing import Any

import pytest

from runtime.checkpoint.externals import (
    Bind,
    ExternalMount,
    Source,
    peers_to_restore,
    shown_apart,
    submounts,
)
from runtime.rootfs import propagation
from runtime.rootfs.mountinfo import MountInfo
from runtime.spec.model import Linux, Namespace, Process, Root, Spec

SPEC = Spec("1.2.0", Root("rootfs"), Process(("sh",), "/"))


def info(point: str, root: str, *groups: str) -> MountInfo:
    return MountInfo(0, point, root, propagation=groups)


@pytest.mark.parametrize(
    ("wanted", "receives"),
    [("", False), ("rprivate", False), ("slave", True), ("rslave", True), ("rshared", False)],
)
def test_the_root(wanted: str, receives: bool) -> None:
    assert propagation.root_receives(Linux(rootfs_propagation=wanted)) == receives


@pytest.mark.parametrize(
    "mounts",
    [
        pytest.param([info("/a", "/a", "master:1")], id="one"),
        pytest.param([info("/a", "/a", "master:1"), info("/b", "/a", "master:1")], id="the-same"),
        pytest.param([info("/a", "/a", "master:1"), info("/b", "/b", "master:2")], id="groups"),
        pytest.param([info("/a", "/a", "master:1"), info("/c", "/c", "master:1")], id="not-apart"),
        pytest.param(
            [
                info("/", "/", "shared:1"),
                info("/a", "/a", "master:1"),
                info("/b", "/b", "master:1"),
            ],
            id="of-its-own",
        ),
    ],
)
def test_what_can_be_made_again(mounts: list[MountInfo]) -> None:
    apart = {"/a", "/b"} if mounts[-1].point != "/c" else {"/b"}
    assert list(propagation.objections(mounts, apart)) == []


@pytest.mark.parametrize("groups", [("master:1",), ("shared:2", "master:1")])
def test_two_slaves_of_one_group(groups: Any) -> None:
    mounts = [info("/a", "/a", "master:1"), info("/b", "/b", *groups)]
    (why,) = propagation.objections(mounts, {"/b"})
    assert "both /a and /b receive" in why


def test_what_a_restore_gives_to_criu_as_a_mount_of_its_own() -> None:
    maps = ("0 5 1\n", "0 6 1\n")
    binds = [Bind("/a", "/srv/a", False), Bind("/b", "/srv/b", False, maps)]
    external = [ExternalMount("/real/a", "/a"), ExternalMount("/b", "/b")]
    below = [ExternalMount("/real/a/in", "/a/in")]
    assert shown_apart(SPEC, binds, external, below) == {"/b", "/real/a/in"}
    user = SPEC._replace(linux=Linux(namespaces=(Namespace("user"),)))
    assert shown_apart(user, binds, external, below) == {"/real/a", "/b", "/real/a/in"}


def test_peers_of_the_host_are_those_of_its_groups_and_of_the_spec() -> None:
    external = [ExternalMount("/a", "/a"), ExternalMount("/real/b", "/b")]
    table = [info("/a", "/a", "shared:7"), info("/real/b", "/b", "shared:8", "master:7")]
    host = [info("/", "/", "shared:1"), info("/data", "/", "shared:7")]
    assert propagation.peers(external, table, host) == ("/a",)
    binds = [Bind("/a", "/srv/a", True, shares=True), Bind("/b", "/srv/b", True)]
    sources = [Source("/a", "/srv/a"), Source("/a/in", "/srv/a", below="/in")]
    sources += [Source("/b", "/srv/b"), Source("/b/in", "/srv/b", below="/in")]
    names = ["/a", "/a/in", "/b", "/b/in", "/c"]
    assert peers_to_restore(sources, binds, names) == sources[:2]


def test_what_came_later_is_external_too() -> None:
    table = [MountInfo(1, "/a/in"), MountInfo(2, "/b/in")]
    binds = [Bind("/a", "/srv/a", False, receives=True), Bind("/b", "/srv/b", False)]
    external = [ExternalMount("/a", "/a"), ExternalMount("/b", "/b")]
    assert submounts(external, binds, table) == [ExternalMount("/a/in", "/a/in")]
