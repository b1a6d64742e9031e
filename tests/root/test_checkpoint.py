"""Checkpoint with the real CRIU: what is dumped, and how the container is after a failure."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from criu_rpc import Criu, CriuDied, NetworkLock, Notification, Script, find_criu
from runtime import CheckpointFailed, Container, NoSuchContainer, Status, WrongStatus
from runtime.checkpoint.dump import Checkpoint, unlock
from runtime.checkpoint.options import CheckpointOptions
from runtime.network.lock import network_lock
from tests.containers import with_descriptors, without_namespace
from tests.migratory import COUNT, Migratory
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.needs_criu,
]

# Processes that talk to each other over TCP, and count every answer.
TALK = (
    "ifconfig lo 127.0.0.1 up; mkfifo /tmp/back; nc -l -p 5000 -e cat & sleep 0.2; "
    "exec 3<>/tmp/back; nc 127.0.0.1 5000 <&3 | { n=0; echo x >&3; while read line; do "
    "n=$((n+1)); echo $n > /tmp/new; mv /tmp/new /tmp/count; sleep 0.01; echo x >&3; done; }"
)


def rules(container: Container) -> str:
    """Everything in the packet filter of the container's network."""
    argv = ["nsenter", "-t", str(container.state.init_pid), "-n", "nft", "list", "ruleset"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def images(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".log"))


@pytest.mark.vm
@pytest.mark.usefixtures("traceless")
def test_memory_goes_on_where_it_was(migratory: Migratory) -> None:
    migratory.start()
    assert migratory.counts()
    migratory.checkpoint()
    last = migratory.count()
    with pytest.raises(NoSuchContainer):
        Container.load(migratory.box.root, migratory.box.id)
    container = migratory.restore()
    assert container.status() is Status.RUNNING
    assert migratory.counts()
    assert last < migratory.count() < last + 2000
    container.delete(force=True)


@pytest.mark.vm
def test_a_container_left_running_runs_on_and_can_be_cloned(migratory: Migratory) -> None:
    migratory.start()
    original = migratory.container
    migratory.checkpoint(leave_running=True)
    assert original.status() is Status.RUNNING
    assert migratory.counts()
    clone = migratory.restore("-clone")
    assert clone.status() is Status.RUNNING
    assert original.status() is Status.RUNNING
    assert clone.state.cgroup_paths != original.state.cgroup_paths


def test_a_checkpoint_can_be_kept_from_removing_the_container(migratory: Migratory) -> None:
    migratory.start().checkpoint(destroy=False)
    assert migratory.container.status() is Status.STOPPED
    migratory.container.delete()


@pytest.mark.vm
@pytest.mark.parametrize("exec_first", [False, True])
def test_a_paused_container_can_be_checkpointed(migratory: Migratory, exec_first: bool) -> None:
    migratory.start()
    if exec_first:  # another way for CRIU to find its processes
        box, container = migratory.box, migratory.container
        process = container.spec.process._replace(args=("sleep", "1000"))
        container.exec(process, detach=True)
        assert len(container.processes()) >= 2, box
    migratory.container.pause()
    last = migratory.count()
    migratory.checkpoint()
    migratory.restore()
    assert migratory.counts()
    assert migratory.count() >= last


def test_a_created_container_is_refused(migratory: Migratory) -> None:
    migratory.container = migratory.box.create()
    with pytest.raises(WrongStatus, match="is created, not running or paused"):
        migratory.checkpoint()
    assert not migratory.images.exists()


def test_what_criu_would_not_restore_is_refused_before(migratory: Migratory) -> None:
    migratory.start()
    pid = str(migratory.container.state.init_pid)
    subprocess.run(
        ["chrt", "-R", "-d", "-T", "1000000", "-P", "99000000", "-D", "99000000", "-p", "0", pid],
        check=True,
    )
    with pytest.raises(CheckpointFailed, match=f"process {pid} is scheduled by SCHED_DEADLINE"):
        migratory.checkpoint()
    assert migratory.container.status() is Status.RUNNING
    assert not migratory.images.exists()


@pytest.mark.needs_nftables
@pytest.mark.parametrize("lock", ["NFTABLES", "IPTABLES"])
def test_a_failure_leaves_it_running_and_unlocked(migratory: Migratory, lock: str) -> None:
    migratory.start(TALK)
    assert eventually(lambda: migratory.count() > 3)
    with pytest.raises(CheckpointFailed, match="--tcp-established") as caught:
        migratory.checkpoint(network_lock=NetworkLock[lock])
    assert str(migratory.images / "dump.log") in str(caught.value)
    assert migratory.container.status() is Status.RUNNING
    assert migratory.counts()
    assert "CRIU" not in rules(migratory.container)
    assert images(migratory.images) == []
    migratory.checkpoint(tcp_established=True)
    migratory.restore()
    assert migratory.counts()


@pytest.mark.needs_nftables
@pytest.mark.parametrize("lock", ["NFTABLES", "IPTABLES"])
def test_a_criu_killed_while_it_holds_leaves_it_running_and_unlocked(
    migratory: Migratory, lock: str
) -> None:
    migratory.start()
    with Criu.start() as criu:

        def kill(notification: Notification) -> None:
            if notification.script == Script.POST_DUMP:
                assert "CRIU" in rules(migratory.container)
                assert migratory.stands_still()
                criu.kill()

        with pytest.raises(CheckpointFailed, match="was killed by SIGKILL") as caught:
            migratory.checkpoint(network_lock=NetworkLock[lock], on_notify=kill, criu=criu)
    assert isinstance(caught.value.__cause__, CriuDied)
    assert migratory.container.status() is Status.RUNNING
    assert "CRIU" not in rules(migratory.container)
    assert migratory.counts()
    assert images(migratory.images) == []


@pytest.mark.parametrize("moment", [Script.PRE_DUMP, Script.QUERY_EXT_FILES, Script.POST_DUMP])
@pytest.mark.parametrize("error", [LookupError("no"), KeyboardInterrupt()])
def test_a_refusal_leaves_it_running(
    migratory: Migratory, moment: Script, error: BaseException
) -> None:
    def refuse(notification: Notification) -> None:
        if notification.script == moment:
            raise error

    migratory.start()
    with pytest.raises(type(error)):
        migratory.checkpoint(on_notify=refuse)
    assert migratory.container.status() is Status.RUNNING
    assert migratory.counts()
    assert images(migratory.images) == []


@pytest.mark.vm
@pytest.mark.needs_nftables
@pytest.mark.parametrize("lock", ["NFTABLES", "IPTABLES"])
def test_what_is_frozen_by_hand_stays_so_when_criu_dies_and_loses_nothing(
    migratory: Migratory, lock: str
) -> None:
    """A container that has been handed over is not let loose by a crash.

    Its sockets are in repair mode then: had it run on, each read would have failed.
    """
    migratory.start(TALK)
    assert eventually(lambda: migratory.count() > 3)
    with Criu.start() as criu:

        def fence(notification: Notification) -> None:
            if notification.script == Script.POST_DUMP:
                migratory.container.cgroup.freeze()
                criu.kill()

        with pytest.raises(CheckpointFailed):
            migratory.checkpoint(
                tcp_established=True, network_lock=NetworkLock[lock], on_notify=fence, criu=criu
            )
    assert migratory.container.status() is Status.PAUSED
    assert migratory.stands_still()
    assert "CRIU" in rules(migratory.container)
    unlock(migratory.container)
    assert "CRIU" not in rules(migratory.container)
    migratory.container.resume()
    assert migratory.counts()
    migratory.checkpoint(tcp_established=True)
    migratory.restore()
    assert migratory.counts()


@pytest.mark.vm
def test_a_pause_survives_a_failure(migratory: Migratory) -> None:
    def refuse(notification: Notification) -> None:
        if notification.script == Script.POST_DUMP:
            raise LookupError

    migratory.start()
    migratory.container.pause()
    with pytest.raises(LookupError):
        migratory.checkpoint(on_notify=refuse)
    assert migratory.container.status() is Status.PAUSED
    migratory.container.resume()
    assert migratory.counts()


def test_bind_mounts_come_from_the_bundle_that_restores(migratory: Migratory, room: Path) -> None:
    """A directory, a file, what symbolic links lead to and from, and one with a mount inside."""
    data, deep = room / "data", room / "deep"
    for directory in (data, deep / "inner"):
        directory.mkdir(parents=True)
    (room / "file").write_text("one file")
    (room / "link").symlink_to("file")
    (data / "x").write_text("data")
    rootfs = migratory.box.bundle.rootfs
    (rootfs / "real").mkdir()
    (rootfs / "alias").symlink_to("/real")
    subprocess.run(["mount", "-t", "tmpfs", "inner", deep / "inner"], check=True)
    try:
        (deep / "inner/y").write_text("inner")
        binds = [
            ("/srv/data", data, "rbind"),
            ("/etc/file", room / "file", "bind"),
            ("/etc/linked", room / "link", "bind"),
            ("/alias/data", data, "bind"),
            ("/deep", deep, "rbind"),
        ]
        spec = migratory.box.bundle.spec
        spec["mounts"] += [
            {"destination": to, "type": "bind", "source": str(source), "options": [kind]}
            for to, source, kind in binds
        ]
        migratory.box.bundle.write(spec)
        migratory.start()
        migratory.checkpoint()
        inside = Path(f"/proc/{migratory.restore().state.init_pid}/root")
        assert migratory.counts()
        assert (inside / "srv/data/x").read_text() == "data"
        for name in ("file", "linked"):
            assert (inside / "etc" / name).read_text() == "one file"
        assert (inside / "real/data/x").read_text() == "data"
        assert (inside / "deep/inner/y").read_text() == "inner"
        migratory.checkpoint()
    finally:
        subprocess.run(["umount", deep / "inner"], check=True)


def test_a_read_only_root_without_a_tmp_is_restored(migratory: Migratory) -> None:
    (migratory.box.bundle.rootfs / "tmp").rmdir()
    migratory.box.update(root={"path": "rootfs", "readonly": True})
    migratory.start("while :; do sleep 1; done")
    migratory.checkpoint()
    assert migratory.restore().status() is Status.RUNNING


def test_masked_and_readonly_paths_stay_so(migratory: Migratory) -> None:
    migratory.start()
    for _ in range(2):
        migratory.checkpoint()
        inside = Path(f"/proc/{migratory.restore().state.init_pid}/root")
        masked = os.stat(inside / "proc/timer_list")
        assert masked.st_rdev == os.makedev(1, 3)
        assert os.statvfs(inside / "proc/sys").f_flag & os.ST_RDONLY
        assert migratory.counts()


def test_devices_and_files_in_memory_are_carried(migratory: Migratory) -> None:
    migratory.start("echo kept > /dev/shm/file; " + COUNT)
    assert migratory.counts()
    migratory.checkpoint()
    inside = Path(f"/proc/{migratory.restore().state.init_pid}/root")
    assert (inside / "dev/shm/file").read_text() == "kept\n"
    assert os.stat(inside / "dev/zero").st_rdev == os.makedev(1, 5)


def test_a_process_that_holds_a_file_of_the_host_is_named(migratory: Migratory, room: Path) -> None:
    with (room / "secret").open("w") as file:
        with_descriptors([file.fileno()], lambda: migratory.start(preserve_fds=1))
    with pytest.raises(CheckpointFailed, match=f"holds {room}/secret of the host as descriptor 3"):
        migratory.checkpoint()
    assert migratory.counts()


def test_a_memfd_is_no_file_of_the_host(migratory: Migratory) -> None:
    fd = os.memfd_create("kept")
    os.write(fd, b"in memory")
    with_descriptors([fd], lambda: migratory.start(preserve_fds=1))
    os.close(fd)
    migratory.checkpoint()
    restored = migratory.restore()
    assert Path(f"/proc/{restored.state.init_pid}/fd/3").read_bytes() == b"in memory"


def test_an_image_directory_that_cannot_be_made_is_named(migratory: Migratory) -> None:
    migratory.start()
    migratory.images = Path("/proc/no/images")
    with pytest.raises(CheckpointFailed, match="/proc/no"):
        migratory.checkpoint()
    assert migratory.counts()


def test_images_that_were_there_are_not_removed_by_a_failure(migratory: Migratory) -> None:
    def refuse(notification: Notification) -> None:
        if notification.script == Script.POST_DUMP:
            raise LookupError

    migratory.start().checkpoint(leave_running=True)
    before = images(migratory.images)
    with pytest.raises(LookupError):
        migratory.checkpoint(on_notify=refuse)
    assert set(before) <= set(images(migratory.images))


def test_the_plan_is_made_while_it_runs(migratory: Migratory) -> None:
    migratory.start()
    plan = Checkpoint(migratory.container, CheckpointOptions(image_path=migratory.images))
    assert migratory.counts()
    assert not migratory.images.exists()
    assert plan.dump_options.pid == migratory.container.state.init_pid
    assert plan.dump_options.network_lock is network_lock(find_criu())
    assert ("/proc/timer_list", "/dev/null") in plan.dump_options.ext_mnt


def test_a_container_that_ends_meanwhile_is_a_failure(migratory: Migratory) -> None:
    def end(notification: Notification) -> None:
        if notification.script == Script.PRE_DUMP:
            migratory.container.signal(signal.SIGKILL)
            eventually(lambda: migratory.container.status() is Status.STOPPED)

    migratory.start()
    with pytest.raises(CheckpointFailed, match="its processes have ended"):
        migratory.checkpoint(on_notify=end)
    assert migratory.container.status() is Status.STOPPED


@pytest.mark.vm
@pytest.mark.parametrize("own_namespace", [True, False])
def test_mounts_of_cgroups_show_its_own_again(migratory: Migratory, own_namespace: bool) -> None:
    spec = migratory.box.bundle.spec
    spec["mounts"].append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }
    )
    if not own_namespace:
        spec["linux"]["namespaces"] = without_namespace(spec, "cgroup")
    migratory.box.bundle.write(spec)
    migratory.start()
    for name in ("-second", "-third"):
        migratory.checkpoint()
        container = migratory.restore(name)
        (directory, *_) = container.cgroup.directories
        where = "/sys/fs/cgroup"
        if "" not in container.cgroup.paths:
            where += f"/{directory.relative_to('/sys/fs/cgroup').parts[0]}"
        elif not own_namespace:
            where = str(directory)
        inside = Path(f"/proc/{container.state.init_pid}/root{where}")
        assert (inside / "cgroup.procs").stat().st_ino == (directory / "cgroup.procs").stat().st_ino
        assert migratory.counts()


def test_namespaces_given_by_path_are_joined_again(migratory: Migratory) -> None:
    with subprocess.Popen(["unshare", "--uts", "--ipc", "sleep", "1000"]) as holder:
        try:
            mine = os.stat("/proc/self/ns/uts").st_ino
            assert eventually(lambda: os.stat(f"/proc/{holder.pid}/ns/uts").st_ino != mine)
            given = {kind: f"/proc/{holder.pid}/ns/{kind}" for kind in ("uts", "ipc")}
            namespaces = migratory.box.bundle.spec["linux"]["namespaces"]
            for each in namespaces:
                if each["type"] in given:
                    each["path"] = given[each["type"]]
            migratory.box.update(linux={"namespaces": namespaces}, hostname="")
            migratory.start()
            for _ in range(2):
                migratory.checkpoint()
                pid = migratory.restore().state.init_pid
                for kind, path in given.items():
                    assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino == os.stat(path).st_ino
                assert migratory.counts()
        finally:
            holder.kill()
