"""A container's filesystem: what is mounted, how, and what of the host stays out."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import InvalidSpec, SetupFailed
from runtime.checkpoint.dump import checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.errors import CheckpointFailed
from tests import leftovers
from tests.bundles import CAPABILITIES, mount
from tests.containers import Box, without_namespace

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]


def mounts_of(text: str) -> dict[str, list[str]]:
    """Mount point -> the fields of its (last) line in mountinfo, the optional ones joined."""
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found[fields[4]] = [*fields[:6], " ".join(fields[6:]), *after.split()]
    return found


ROOT, OPTIONS, PROPAGATION, FSTYPE, SUPER_OPTIONS = 3, 5, 6, 7, 9


def test_nothing_of_the_host_is_mounted_inside(box: Box) -> None:
    box.program("cat", "/proc/self/mountinfo")
    points = set(mounts_of(box.run().out))
    assert points == {
        *("/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"),
        *("/proc/bus", "/proc/sys"),
        *(path for path in ("/proc/kcore", "/proc/timer_list") if os.path.exists(path)),
        *(path for path in ("/proc/sysrq-trigger",) if os.path.exists(path)),
    }


def test_mounts_are_private_unless_the_spec_says_otherwise(box: Box) -> None:
    box.program("cat", "/proc/self/mountinfo")
    assert {line[PROPAGATION] for line in mounts_of(box.run().out).values()} == {""}


def test_each_option_has_its_effect(box: Box) -> None:
    source = box.bundle.path / "data"
    source.mkdir()
    extra = [
        mount("/a", "tmpfs", "nosuid", "nodev", "noexec", "ro", "size=64k", "mode=700"),
        {
            "destination": "/b",
            "type": "bind",
            "source": "data",
            "options": ["bind", "ro", "noatime", "nosymfollow"],
        },
        {"destination": "/c", "type": "none", "source": str(source), "options": ["rbind"]},
    ]
    box.update(mounts=[*box.bundle.spec["mounts"], *extra])
    outcome = box.shell("cat /proc/self/mountinfo; stat -c %a /a >&2; touch /b/x /c/y")
    found = mounts_of(outcome.out)
    assert {"nosuid", "nodev", "noexec", "ro"} <= set(found["/a"][OPTIONS].split(","))
    assert "size=64k" in found["/a"][SUPER_OPTIONS]
    assert {"ro", "noatime", "nosymfollow"} <= set(found["/b"][OPTIONS].split(","))
    assert found["/c"][OPTIONS].startswith("rw")
    assert outcome.err.splitlines()[0] == "700"
    assert "/b/x: Read-only file system" in outcome.err
    assert os.listdir(source) == ["y"]


def test_a_file_is_bound_on_a_file_that_is_made_for_it(box: Box) -> None:
    source = box.bundle.path / "file"
    source.write_text("content")
    bound = {"destination": "/x/y/z", "type": "bind", "source": "file", "options": ["rbind", "ro"]}
    box.update(mounts=[*box.bundle.spec["mounts"], bound])
    assert box.shell("cat /x/y/z").out == "content"


def test_a_directory_cannot_be_bound_on_a_file(box: Box) -> None:
    bound = {"destination": "/etc/passwd", "type": "bind", "source": "/tmp", "options": ["bind"]}
    box.update(mounts=[*box.bundle.spec["mounts"], bound])
    with pytest.raises(SetupFailed, match=r"/tmp \(bind\) on /etc/passwd"):
        box.shell("true")


def test_mounts_below_a_source_come_along_only_with_rbind(box: Box, name: str) -> None:
    source = box.bundle.path / "data"
    (source / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", name, source / "below"], check=True)
    try:
        (source / "below/file").touch()
        for option, expected in (("bind", ""), ("rbind", "file\n")):
            bound = {"destination": "/d", "type": "none", "source": "data", "options": [option]}
            box.update(mounts=[mount("/proc", "proc"), bound])
            assert box.shell("ls /d/below").out == expected
        recursive = bound | {"options": ["rbind", "rro"]}
        box.update(mounts=[mount("/proc", "proc"), recursive])
        assert "Read-only" in box.shell("touch /d/below/new").err
    finally:
        subprocess.run(["umount", source / "below"], check=True)


def test_a_tmpfs_keeps_the_permissions_of_the_directory_that_it_covers(box: Box) -> None:
    (box.bundle.rootfs / "covered").mkdir(mode=0o751)
    (box.bundle.rootfs / "covered").chmod(0o751)
    extra = [mount("/covered", "tmpfs"), mount("/new", "tmpfs")]
    box.update(mounts=[*box.bundle.spec["mounts"], *extra])
    assert box.shell("stat -c %a /covered /new").out.split() == ["751", "1777"]


def test_a_mount_is_changed_by_remount(box: Box) -> None:
    changed = {"destination": "/dev/shm", "options": ["remount", "ro"]}
    box.update(mounts=[*box.bundle.spec["mounts"], changed])
    assert "Read-only" in box.shell("touch /dev/shm/x").err


def test_a_readonly_root_is_readonly_and_what_is_mounted_on_it_is_not(box: Box) -> None:
    box.update(root={"path": "rootfs", "readonly": True})
    outcome = box.shell("touch /x; touch /dev/shm/y && echo fine")
    assert outcome.out == "fine\n"
    assert "/x: Read-only file system" in outcome.err


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("", ""), ("private", ""), ("rprivate", ""), ("shared", "shared:"), ("rshared", "shared:")],
)
def test_the_propagation_of_the_root_is_as_the_spec_says(box: Box, wanted: str, found: str) -> None:
    box.update(linux={"rootfsPropagation": wanted})
    box.program("cat", "/proc/self/mountinfo")
    root = mounts_of(box.run().out)["/"]
    assert root[PROPAGATION].startswith(found)
    assert bool(root[PROPAGATION]) == bool(found)


def test_masked_paths_are_empty(box: Box) -> None:
    (box.bundle.rootfs / "secret").mkdir()
    (box.bundle.rootfs / "secret/file").write_text("x")
    (box.bundle.rootfs / "etc/key").write_text("x")
    (box.bundle.rootfs / "etc/link").symlink_to("key")
    box.update(linux={"maskedPaths": ["/secret", "/etc/key", "/none", "/etc/key/none"]})
    script = "ls -A /secret; cat /etc/key /etc/link; touch /secret/x; stat -c %F /etc/key"
    outcome = box.shell(script)
    assert outcome.out == "character special file\n"
    assert "/secret/x: Read-only file system" in outcome.err


def test_a_masked_path_behind_a_link_is_masked_where_the_link_leads(box: Box) -> None:
    (box.bundle.rootfs / "etc/key").write_text("x")
    (box.bundle.rootfs / "link").symlink_to("/etc/key")
    box.update(linux={"maskedPaths": ["/link"]})
    assert box.shell("cat /etc/key").out == ""


def test_readonly_paths_cannot_be_written(box: Box) -> None:
    box.update(linux={"readonlyPaths": ["/etc", "/proc/sys", "/none"]})
    outcome = box.shell("touch /etc/x; echo 1 > /proc/sys/kernel/msgmax; cat /etc/passwd")
    assert "/etc/x: Read-only file system" in outcome.err
    assert "/proc/sys/kernel/msgmax: Read-only file system" in outcome.err
    assert outcome.out.startswith("root:")


def test_the_default_devices_are_there_and_work(box: Box) -> None:
    outcome = box.shell("stat -c '%n %F %t:%T %a' /dev/* | sort; echo x > /dev/null")
    devices = {line.split()[0]: line.split(" ", 1)[1] for line in outcome.out.splitlines()}
    kind = "character special file"
    assert devices["/dev/null"] == f"{kind} 1:3 666"
    assert devices["/dev/full"] == f"{kind} 1:7 666"
    assert devices["/dev/tty"] == f"{kind} 5:0 666"
    assert {"/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/fd"} <= set(devices)
    assert outcome.err == ""


def test_the_devices_of_the_spec_are_made(box: Box) -> None:
    wanted = [
        {
            "type": "c",
            "path": "/dev/deep/fuse",
            "major": 10,
            "minor": 229,
            "fileMode": 0o640,
            "uid": 5,
            "gid": 6,
        },
        {"type": "p", "path": "/dev/pipe"},
    ]
    box.update(linux={"devices": wanted})
    outcome = box.shell("stat -c '%F %t:%T %a %u:%g' /dev/deep/fuse /dev/pipe")
    assert outcome.out.splitlines() == [
        "character special file a:e5 640 5:6",
        "fifo 0:0 666 0:0",
    ]


def test_a_read_only_dev_is_filled_first(box: Box) -> None:
    spec = box.bundle.spec
    spec["mounts"][1]["options"].append("ro")
    box.bundle.write(spec)
    outcome = box.shell("touch /dev/x; echo y > /dev/null && ls /dev/null")
    assert outcome.out == "/dev/null\n"
    assert "/dev/x: Read-only file system" in outcome.err


@pytest.mark.needs_cgroup_v1
def test_only_the_containers_own_cgroup_is_shown(box: Box) -> None:
    cgroup = mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro")
    box.update(mounts=[*box.bundle.spec["mounts"], cgroup])
    script = (
        "cat /sys/fs/cgroup/memory/cgroup.procs; cat /proc/self/mountinfo; touch /sys/fs/cgroup/x"
    )
    outcome = box.shell(script)
    assert outcome.out.split("\n")[0] == "1"
    found = mounts_of(outcome.out[outcome.out.index("\n") :].split("\n", 2)[2])
    assert found["/sys/fs/cgroup/memory"][ROOT] == "/"
    assert found["/sys/fs/cgroup/memory"][OPTIONS].startswith("ro")
    assert "Read-only" in outcome.err


@pytest.mark.needs_cgroup_v1
def test_without_a_cgroup_namespace_it_is_the_same_cgroup_by_its_path(box: Box) -> None:
    spec = box.bundle.spec
    spec["linux"]["namespaces"] = [
        each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"
    ]
    spec["mounts"].append(mount("/sys/fs/cgroup", "cgroup", "ro"))
    box.bundle.write(spec)
    found = mounts_of(box.shell("cat /proc/self/mountinfo").out)
    assert found["/sys/fs/cgroup/memory"][ROOT].endswith(f"/migrator/{box.id}")


def test_the_old_root_is_gone(box: Box) -> None:
    outcome = box.shell("cd /; cd ..; pwd; ls -d ../../../usr/lib/python3*; ls /proc/1/root/home")
    assert outcome.out == "/\n"


def test_the_hosts_mounts_are_as_before(box: Box) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    container = box.start()
    assert box.id not in Path("/proc/self/mountinfo").read_text()
    container.delete(force=True)
    after = Path("/proc/self/mountinfo").read_text()
    assert [line for line in after.splitlines() if box.id in line] == []
    assert stat.S_ISDIR(os.stat(box.bundle.rootfs).st_mode)
    assert before.count("\n") > 0


def test_without_pivot_the_rootfs_lies_over_the_hosts_root(box: Box) -> None:
    box.program("sh", "-c", "ls -d /usr/lib/python3* /work /home; ls /proc/1/root; pwd")
    outcome = box.run(no_pivot=True)
    assert set(outcome.out.split()) >= {"bin", "dev", "proc", "/"}
    assert "/usr/lib/python3" not in outcome.out


def test_without_pivot_the_hosts_proc_cannot_be_mounted_by_who_gets_privileges(box: Box) -> None:
    """Root of a user namespace may mount a proc where a whole one can be seen (CVE-2019-5736)."""
    sets = {name: [*CAPABILITIES, "CAP_SETFCAP"] for name in ("bounding", "permitted")}
    script = "unshare -mrpf sh -c 'mount -t proc none /proc && echo mounted'"
    box.program("sh", "-c", script, capabilities=sets)
    outcome = box.run(no_pivot=True)
    assert "mounted" not in outcome.out
    assert "denied" in outcome.err or "not permitted" in outcome.err


@pytest.fixture
def on_the_host(box: Box) -> Iterator[Box]:
    """A box whose container has no mount namespace; its mounts are taken away."""
    spec = box.bundle.spec
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
    spec["linux"]["namespaces"] = without_namespace(spec, "mount")
    box.bundle.write(spec)
    yield box
    # Path.is_mount() does not see what is bound onto itself.
    if str(box.bundle.rootfs) in leftovers.mount_points():
        subprocess.run(["umount", "-R", "-l", box.bundle.rootfs], check=True)


def test_without_a_mount_namespace_all_is_mounted_on_the_host(on_the_host: Box) -> None:
    before = leftovers.mount_points()
    outcome = on_the_host.shell("ls /bin/busybox /proc/self/exe; readlink /proc/self/ns/mnt")
    assert outcome.out.split()[-1] == os.readlink("/proc/self/ns/mnt")
    assert "/bin/busybox" in outcome.out
    # As with runc they stay: who gave the host's namespace unmounts them.
    assert set(leftovers.mount_points()) - set(before)


@pytest.mark.usefixtures("traceless")
@pytest.mark.parametrize("program", ["sleep", "/no/such/program"])
def test_without_a_mount_namespace_a_create_that_fails_unmounts_what_it_has_mounted(
    on_the_host: Box, program: str
) -> None:
    mounts = on_the_host.bundle.spec["mounts"]
    late = {"destination": "/late", "type": "bind", "source": "/no/such/file", "options": ["bind"]}
    on_the_host.update(mounts=mounts if program.startswith("/") else [*mounts, late])
    on_the_host.program(program)
    with pytest.raises(SetupFailed):
        on_the_host.create()


@pytest.mark.needs_criu
def test_without_a_mount_namespace_a_checkpoint_is_refused(
    on_the_host: Box, tmp_path: Path
) -> None:
    container = on_the_host.start()
    with pytest.raises(CheckpointFailed, match="has no mount namespace"):
        checkpoint(container, CheckpointOptions(image_path=tmp_path / "images"))


def test_without_a_mount_namespace_nothing_can_be_masked(box: Box) -> None:
    spec = box.bundle.spec
    spec["linux"]["namespaces"] = without_namespace(spec, "mount")
    box.bundle.write(spec)
    with pytest.raises(InvalidSpec, match="maskedPaths: needs a mount namespace"):
        box.create()
