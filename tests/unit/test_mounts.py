"""Mount options sorted out, and the spec's mounts turned into what is to be done."""

from pathlib import Path
from typing import Any

import pytest

from runtime.constants import (
    MOUNT_ATTR_ATIME_MASK,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
)
from runtime.rootfs.mount_options import parse_options
from runtime.rootfs.mounts import MountTable, plan
from runtime.rootfs.sources import OWN_USER_NAMESPACE
from runtime.spec.model import IdMapping, Mount, Namespace

BUNDLE = Path("/bundle")
ATIMES = MOUNT_ATTR_ATIME_MASK | MOUNT_ATTR_NODIRATIME
NO_ATIME_AT_ALL = MOUNT_ATTR_NOATIME | MOUNT_ATTR_NODIRATIME


def planned(*mounts: Mount, **cgroups: Any) -> MountTable:
    settings = {
        "cgroup_paths": {},
        "cgroup_namespace": Namespace("cgroup", ""),
        "user_namespace": False,
    } | cgroups
    return plan(mounts, bundle=BUNDLE, rootfs=BUNDLE / "rootfs", **settings)


@pytest.mark.parametrize(
    ("options", "to_set", "to_clear"),
    [
        (("ro",), MOUNT_ATTR_RDONLY, 0),
        (("ro", "rw"), 0, MOUNT_ATTR_RDONLY),
        (("rw", "ro"), MOUNT_ATTR_RDONLY, 0),
        (("nosuid", "nodev"), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0),
        (("noexec", "exec"), 0, MOUNT_ATTR_NOEXEC),
        (("nodiratime",), MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_ATIME_MASK),
        (("noatime",), MOUNT_ATTR_NOATIME, ATIMES),
        (("noatime", "strictatime"), MOUNT_ATTR_STRICTATIME, ATIMES),
        (("strictatime", "relatime"), 0, ATIMES),
        (("noatime", "nodiratime"), NO_ATIME_AT_ALL, MOUNT_ATTR_ATIME_MASK),
        (("atime", "norelatime", "diratime", "nostrictatime"), 0, 0),
        (("noatime", "atime"), 0, 0),
        (("defaults", "silent", "async"), 0, 0),
    ],
)
def test_the_last_of_contrary_options_wins(
    options: tuple[str, ...], to_set: int, to_clear: int
) -> None:
    parsed = parse_options(options)
    assert (parsed.attr_set, parsed.attr_clr) == (to_set, to_clear)
    assert parsed.data == ()


def test_an_r_before_an_option_means_the_mounts_below_too() -> None:
    parsed = parse_options(("rro", "rnoatime", "nosuid"))
    assert parsed.recursive_set == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME
    assert parsed.recursive_clr == MOUNT_ATTR_ATIME_MASK
    assert parsed.attr_set == MOUNT_ATTR_NOSUID


def test_propagation_is_kept_in_order() -> None:
    parsed = parse_options(("slave", "rshared", "rprivate"))
    assert parsed.propagation == ((MS_SLAVE, False), (MS_SHARED, True), (MS_PRIVATE, True))


def test_what_is_not_known_is_for_the_filesystem() -> None:
    parsed = parse_options(("mode=755,size=64k", "newinstance", "sync", 'context="a:b,c"'))
    assert parsed.data == (
        ("mode", "755"),
        ("size", "64k"),
        ("newinstance", None),
        ("sync", None),
        ("context", '"a:b,c"'),
    )


@pytest.mark.parametrize("option", ["iversion"])
def test_an_option_that_is_not_carried_out_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option}: "):
        parse_options((option,))


def test_the_source_of_a_bind_mount_is_relative_to_the_bundle() -> None:
    table = planned(
        Mount("/a", "none", "data", ("rbind", "ro")),
        Mount("b", "bind", "/abs"),
    )
    assert table.binds() == [("/a", "/bundle/data"), ("/b", "/abs")]
    assert [mount["recursive"] for mount in table.mounts] == [True, False]


def test_a_bind_mount_keeps_the_attributes_of_its_source_or_has_none_of_them() -> None:
    kept, cleared, replaced = planned(
        Mount("/a", "bind", "/s", ("bind", "rprivate", "defaults")),
        Mount("/b", "bind", "/s", ("bind", "dev")),
        Mount("/c", "bind", "/s", ("bind", "ro")),
    ).mounts
    assert kept["replaced"] == 0
    assert cleared["replaced"] & MOUNT_ATTR_RDONLY
    assert replaced["replaced"] & (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV) == MOUNT_ATTR_NODEV


def test_a_destination_may_be_given_as_the_host_sees_it() -> None:
    given = (Mount("/bundle/rootfs/a", "tmpfs"), Mount("/bundle/rootfsa", "tmpfs"))
    assert [m["destination"] for m in planned(*given).mounts] == ["/a", "/bundle/rootfsa"]


def test_each_map_of_ids_is_made_once() -> None:
    ids = (IdMapping(0, 1000, 10), IdMapping(10, 5000, 1))
    other = (IdMapping(0, 7, 1),)
    table = planned(
        Mount("/a", "bind", "/s", (), ids, other),
        Mount("/b", "bind", "/s", ("ridmap",), other, other),
        Mount("/c", "bind", "/s", ("rbind",), ids, other),
        Mount("/d", "bind", "/s", ("idmap",)),
        Mount("/e", "bind", "/s"),
        user_namespace=True,
    )
    assert table.idmaps == [("0 1000 10\n10 5000 1\n", "0 7 1\n"), ("0 7 1\n", "0 7 1\n")]
    assert [m["idmap"] for m in table.mounts] == [0, 1, 0, OWN_USER_NAMESPACE, None]
    assert [m["idmap_recursive"] for m in table.mounts] == [False, True, False, False, False]


def test_a_filesystem_keeps_its_type_source_and_options() -> None:
    (mount,) = planned(Mount("/t", "tmpfs", "shm", ("nosuid", "size=1m"))).mounts
    assert (mount["fstype"], mount["source"]) == ("tmpfs", "shm")
    assert mount["options"] == [("size", "1m")]
    assert mount["attr_set"] == MOUNT_ATTR_NOSUID


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        (Mount("/", "tmpfs"), "a mount over the root"),
        (Mount("/a/..", "tmpfs"), "a mount over the root"),
        (Mount("/a", "bind", "", ()), "needs a source"),
        (Mount("/a", "bind", "/b", ("size=1m",)), "option size is one of a filesystem"),
        (Mount("/a", "", "", ("remount", "mode=1")), "option mode is one of a filesystem"),
        (Mount("/a", "", "/b"), "neither a type nor"),
        (Mount("/a", "bind", "/b", ("idmap",)), "the container has no user namespace"),
        (Mount("/a", "bind", "/b", (), (IdMapping(0, 1, 1),)), "both uidMappings and gidMappings"),
        (Mount("/a", "tmpfs", "", ("idmap",)), "only a bind mount can be idmapped"),
        (Mount("/a", "bind", "/b", ("tmpcopyup",)), "for a new tmpfs only"),
    ],
)
def test_a_mount_that_makes_no_sense_is_refused(mount: Mount, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        planned(mount)
    assert str(raised.value).startswith(f"mount {mount.destination}: ")


def test_on_cgroup_v2_the_containers_namespace_is_mounted() -> None:
    cgroup = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid"))
    (mount,) = planned(cgroup, cgroup_paths={"": "/sys/fs/cgroup/migrator/x"}).mounts
    assert mount["fstype"] == "cgroup2"


@pytest.mark.parametrize(
    ("namespace", "shown"),
    [(None, "/sys/fs/cgroup"), (Namespace("cgroup", "/a"), "/sys/fs/cgroup/migrator/x")],
    ids=["the host's namespace: all cgroups", "a joined one: the container's own"],
)
def test_on_cgroup_v2_without_a_namespace_of_its_own_cgroups_are_bound(
    namespace: Namespace | None, shown: str
) -> None:
    cgroup = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro",))
    paths = {"": "/sys/fs/cgroup/migrator/x"}
    table = planned(cgroup, cgroup_paths=paths, cgroup_namespace=namespace)
    assert table.binds() == [("/sys/fs/cgroup", shown)]
    assert table.mounts[0]["attr_set"] == MOUNT_ATTR_RDONLY


def test_on_cgroup_v1_each_hierarchy_is_bound_once(tmp_path: Path) -> None:
    # Nothing is mounted here, so "/" is taken for the mount point of all of them.
    cgroup = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid"))
    memory = tmp_path / "memory"
    table = planned(cgroup, cgroup_paths={"cpu": str(memory), "cpuacct": str(memory)})
    tmpfs, bind = table.mounts
    assert (tmpfs["fstype"], tmpfs["options"]) == ("tmpfs", [("mode", "755")])
    assert (bind["source"], bind["attr_set"]) == (
        str(memory),
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID,
    )
    assert [link for _, link in table.symlinks] == [
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/cpuacct",
    ]
