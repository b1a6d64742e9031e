"""Containers whose root is nobody outside: who they are, what they see, what they cannot do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import Container, InvalidSpec, SetupFailed
from runtime.constants import CLONE_NEWUSER
from runtime.spec.model import User
from tests.bundles import mount
from tests.containers import Box, Traces
from tests.user_namespaces import GIDS, SIZE, UIDS, bind, give_user_namespace, ids

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]


@pytest.fixture
def user_box(box: Box) -> Box:
    give_user_namespace(box.bundle)
    return box


def add_mounts(box: Box, *mounts: dict[str, Any]) -> None:
    box.update(mounts=[*box.bundle.spec["mounts"], *mounts])


def test_root_inside_is_somebody_else_outside(user_box: Box, traceless: None) -> None:
    outcome = user_box.shell("id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; touch /new")
    assert outcome.out.split() == ["0", "0", *f"0 {UIDS} {SIZE} 0 {GIDS} {SIZE}".split()]
    status = (user_box.bundle.rootfs / "new").stat()
    assert (status.st_uid, status.st_gid) == (UIDS, GIDS)


def test_the_whole_set_up_is_that_of_other_containers(user_box: Box) -> None:
    script = (
        "echo x > /dev/null && ls /dev/fd /dev/pts/ptmx /dev/shm /dev/mqueue > /dev/null && "
        "hostname && cat /proc/1/comm && ls /sys/class/net && ip link | grep -c 'lo:.*UP'"
    )
    outcome = user_box.shell(script)
    assert outcome.out.split() == ["mig-test", "sh", "lo", "1"], outcome.err


def test_a_user_of_the_container_is_mapped_too(user_box: Box) -> None:
    (user_box.bundle.rootfs / "tmp").chmod(0o777)
    outcome = user_box.shell("id; touch /tmp/x", user={"uid": 5, "gid": 6, "additionalGids": [7]})
    assert outcome.out == "uid=5 gid=6 groups=7\n"
    assert (user_box.bundle.rootfs / "tmp/x").stat().st_uid == UIDS + 5


def test_what_only_the_hosts_root_may_enter_is_mounted(user_box: Box) -> None:
    secret = user_box.bundle.path / "secret"
    (secret / "shared").mkdir(parents=True)
    (secret / "shared/file").write_text("content")
    secret.chmod(0o700)
    add_mounts(user_box, bind(secret / "shared", "/a"), bind(secret / "shared/file", "/b"))
    outcome = user_box.shell("cat /a/file /b; ls /a/..")
    assert outcome.out.startswith("contentcontent")


def test_a_source_that_is_not_there_is_named(user_box: Box, traceless: None) -> None:
    add_mounts(user_box, bind(Path("/none/such"), "/a"))
    with pytest.raises(SetupFailed, match=r"/none/such.*no such file"):
        user_box.shell("true")


def test_a_later_mount_may_show_an_earlier_one(user_box: Box) -> None:
    source = user_box.bundle.path / "source"
    (source / "x").mkdir(parents=True)
    (source / "x/file").write_text("content")
    inside = user_box.bundle.rootfs / "a"
    add_mounts(user_box, bind(source, "/a"), bind(inside / "x", "/b", "rbind"))
    assert user_box.shell("cat /b/file").out == "content"


def test_exec_comes_into_the_user_namespace(user_box: Box) -> None:
    container = user_box.start()
    outcome = user_box.exec(container, "id -u; cat /proc/self/uid_map; touch /by-exec")
    assert outcome.out.split() == ["0", "0", str(UIDS), str(SIZE)]
    assert (user_box.bundle.rootfs / "by-exec").stat().st_uid == UIDS
    outcome = user_box.exec(container, "id -u", user=User(uid=3, gid=3))
    assert outcome.out == "3\n"


def test_another_containers_user_namespace_is_joined(user_box: Box) -> None:
    first = user_box.start("first")
    path = f"/proc/{first.state.init_pid}/ns/user"
    spec = user_box.bundle.spec
    spec["linux"]["namespaces"][-1]["path"] = path
    # Podman's pods, containerd and CRI-O give its maps too.
    for with_maps in (True, False):
        if not with_maps:
            del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
        user_box.bundle.write(spec)
        outcome = user_box.shell("readlink /proc/self/ns/user; cat /proc/self/uid_map")
        assert outcome.out.split() == [os.readlink(path), "0", str(UIDS), str(SIZE)]


def test_a_user_namespace_with_other_maps_is_not_joined(user_box: Box) -> None:
    first = user_box.start("first")
    spec = user_box.bundle.spec
    spec["linux"]["namespaces"][-1]["path"] = f"/proc/{first.state.init_pid}/ns/user"
    spec["linux"]["gidMappings"][0]["size"] += 1
    user_box.bundle.write(spec)
    with pytest.raises(SetupFailed, match=r"other ones than linux\.gidMappings: leave these out"):
        Container.create(user_box.root, user_box.id, user_box.bundle.path)


def test_a_namespace_that_the_user_namespace_does_not_own_is_joined(user_box: Box) -> None:
    spec = user_box.bundle.spec
    for each in spec["linux"]["namespaces"]:
        if each["type"] == "ipc":
            each["path"] = "/proc/self/ns/ipc"
    spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "mqueue"]
    user_box.bundle.write(spec)
    assert user_box.shell("readlink /proc/self/ns/ipc").out.strip() == os.readlink(
        "/proc/self/ns/ipc"
    )


def test_limits_and_clocks_are_set_that_root_inside_could_not_set(user_box: Box) -> None:
    user_box.update(
        linux={"timeOffsets": {"monotonic": {"secs": 5000, "nanosecs": 7}}},
        process={
            "oomScoreAdj": 100,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 30}],
        },
    )
    script = "cat /proc/self/timens_offsets /proc/self/oom_score_adj; ulimit -n; ulimit -Hn"
    assert user_box.shell(script).out.split()[1:3] == ["5000", "7"]
    assert user_box.shell(script).out.split()[6:] == ["100", "20", "30"]


def test_parameters_of_its_network_are_set(user_box: Box) -> None:
    user_box.update(linux={"sysctl": {"net.ipv4.ip_forward": "1"}})
    assert user_box.shell("cat /proc/sys/net/ipv4/ip_forward").out == "1\n"


def test_the_attributes_of_a_hosts_mount_are_locked(user_box: Box, name: str) -> None:
    source = user_box.bundle.path / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", name, source], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro,noexec", source], check=True)
    try:
        add_mounts(user_box, bind(source, "/m", "bind", "nosuid", "rprivate"))
        found = user_box.shell("grep ' /m ' /proc/self/mounts").out.split()[3].split(",")
        assert {"ro", "noexec", "nosuid"} <= set(found)
        add_mounts(user_box, bind(source, "/n", "bind", "rw"))
        with pytest.raises(SetupFailed, match=r"not permitted: .* take the options out"):
            user_box.shell("true")
    finally:
        subprocess.run(["umount", source], check=True)


@pytest.mark.parametrize("user", [False, True])
def test_the_ids_of_a_mount_are_mapped(box: Box, user: bool, request: Any) -> None:
    if user:
        request.getfixturevalue("user_box")
    source = box.bundle.path / "source"
    (source / "below").mkdir(parents=True)
    for path in (source, source / "below"):
        os.chown(path, 5, 6)
    other = UIDS + 100 if user else 100
    maps = {"uidMappings": [ids(other, 0)], "gidMappings": [ids(GIDS if user else 7, 0)]}
    add_mounts(box, bind(source, "/m", **maps))
    expected = "105 6" if user else "105 13"
    assert box.shell("stat -c '%u %g' /m; stat -c '%u %g' /m/below").out.split("\n")[:2] == [
        expected,
        expected,
    ]


def test_idmap_without_a_map_takes_that_of_the_container(user_box: Box) -> None:
    source = user_box.bundle.path / "source"
    source.mkdir()
    source.chmod(0o777)
    os.chown(source, 5, 6)
    add_mounts(user_box, bind(source, "/m", "bind", "idmap"))
    assert user_box.shell("stat -c '%u %g' /m; touch /m/x").out == "5 6\n"
    assert (source / "x").stat().st_uid == 0


def test_a_filesystem_without_idmaps_is_named(user_box: Box, traceless: None) -> None:
    add_mounts(user_box, bind(Path("/proc/sys"), "/m", "bind", "idmap"))
    with pytest.raises(SetupFailed, match=r"/proc/sys.*(no idmapped mounts|cannot be mapped)"):
        user_box.shell("true")


def test_a_device_that_the_host_has_otherwise_is_not_bound(user_box: Box) -> None:
    device = {"type": "c", "path": "/dev/null", "major": 1, "minor": 5}
    user_box.update(linux={"devices": [device]})
    with pytest.raises(SetupFailed, match="/dev/null: the host has another file there"):
        user_box.shell("true")
    user_box.update(linux={"devices": [device | {"path": "/dev/zero"}]})
    assert user_box.shell("head -c 1 /dev/zero | wc -c").out == "1\n"


def test_who_is_not_mapped_cannot_be_the_user(user_box: Box) -> None:
    with pytest.raises(SetupFailed, match="changing to the user"):
        user_box.shell("true", user={"uid": SIZE + 5, "gid": 0})


def test_a_map_without_root_is_refused(user_box: Box, traceless: None) -> None:
    user_box.update(linux={"uidMappings": [ids(UIDS, 1)]})
    with pytest.raises(SetupFailed, match="user and group 0 have to be mapped"):
        user_box.shell("true")


def test_maps_that_overlap_are_refused_by_the_kernel(user_box: Box, traceless: None) -> None:
    user_box.update(linux={"uidMappings": [ids(UIDS), ids(UIDS, SIZE)]})
    with pytest.raises(SetupFailed, match="mapping the users"):
        user_box.shell("true")


def test_nothing_is_left_when_the_helper_had_work(user_box: Box) -> None:
    before = Traces.now(user_box.root)
    container = user_box.start()
    container.delete(force=True)
    assert Traces.now(user_box.root) == before


def test_a_tmpfs_begins_with_what_it_covers(box: Box) -> None:
    covered = box.bundle.rootfs / "covered"
    (covered / "deep/er").mkdir(parents=True, mode=0o750)
    (covered / "deep/file").write_text("content")
    os.chown(covered / "deep/file", 3, 4)
    (covered / "deep/file").chmod(0o4755)
    (covered / "link").symlink_to("/etc/passwd")
    os.mkfifo(covered / "pipe", 0o622)
    covered.chmod(0o710)
    add_mounts(
        box,
        mount("/covered", "tmpfs", "tmpcopyup", "size=1m"),
        mount("/covered/deep", "tmpfs", "tmpcopyup", "mode=1777", "uid=3"),
    )
    script = (
        "cd /covered; cat deep/file; stat -c '%n %a %u %g' . deep deep/er deep/file; "
        "readlink link; ls -l pipe; touch x"
    )
    lines = box.shell(script).out.split("\n")
    assert lines[0] == "content. 710 0 0"
    assert lines[1] == "deep 1777 3 0"
    assert lines[2] == "deep/er 750 0 0"
    assert lines[3] == "deep/file 4755 3 4"
    assert lines[4] == "/etc/passwd"
    assert lines[5].startswith("p")
    assert not (covered / "x").exists()


def test_a_container_cannot_be_made_of_half_a_mapping(user_box: Box, traceless: None) -> None:
    add_mounts(user_box, bind(Path("/tmp"), "/m", uidMappings=[ids(UIDS)]))
    with pytest.raises(InvalidSpec, match="both uidMappings and gidMappings"):
        Container.create(user_box.root, user_box.id, user_box.bundle.path)


def test_who_becomes_its_root_cannot_be_traced() -> None:
    # With ids that stay what they are it is we who say so, whatever fs.suid_dumpable is.
    script = (
        "from pathlib import Path; import ctypes\n"
        "from runtime.process.entering import become_root\n"
        "from runtime.syscalls import unshare\n"
        f"unshare({CLONE_NEWUSER})\n"
        "write = lambda name, text: Path('/proc/self', name).write_text(text)\n"
        "write('setgroups', 'deny'); write('uid_map', '0 0 1'); write('gid_map', '0 0 1')\n"
        "get_dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "before = get_dumpable(); become_root(); print(before, get_dumpable())"
    )
    told = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert told.stdout == "1 0\n"
