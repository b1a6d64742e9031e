"""Restore with the real CRIU: what comes up, what is refused, and that a failure leaves nothing."""

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from criu_rpc import Notification, Script
from runtime import (
    CgroupError,
    Container,
    ContainerError,
    ContainerExists,
    HookFailed,
    RestoreFailed,
    SetupFailed,
    Status,
)
from runtime.cgroups import manager, resolve_path
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.restore import Restore
from runtime.checkpoint.restore_options import RestoreOptions
from tests.containers import Traces
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.needs_criu,
]


@pytest.fixture
def dumped(migratory: Migratory) -> Migratory:
    """The container is dumped and gone; its images are there."""
    migratory.start()
    assert migratory.counts()
    migratory.checkpoint()
    return migratory


@pytest.fixture
def traceless_failure(dumped: Migratory) -> Callable[[], None]:
    """Says whether all is as it was after the dump."""
    before = Traces.now(dumped.box.root)

    def check() -> None:
        assert Traces.now(dumped.box.root) == before

    return check


def at(script: Script, action: Callable[[Notification], Any]) -> Callable[[Notification], None]:
    def handler(notification: Notification) -> None:
        if notification.script == script:
            action(notification)

    return handler


def refuse(_: Notification) -> None:
    raise LookupError("no")


@pytest.mark.vm
def test_a_restored_container_is_a_container_as_any_other(dumped: Migratory) -> None:
    container = dumped.restore()
    state = container.oci_state()
    assert state["status"] == "running"
    assert state["pid"] in container.processes()
    assert Container.load(dumped.box.root, dumped.box.id).status() is Status.RUNNING
    container.pause()
    assert dumped.stands_still()
    container.resume()
    assert dumped.counts()
    assert dumped.box.exec(container, "echo $$; cat /proc/1/comm").out.split()[1] == "sh"
    container.signal(signal.SIGKILL)
    assert container.wait() == 137
    container.delete()


def test_a_restored_container_can_be_checkpointed_again_and_again(dumped: Migratory) -> None:
    for number in range(3):
        last = dumped.count()
        dumped.restore()
        assert dumped.counts()
        dumped.images = dumped.images.with_name(f"images-{number}")
        dumped.checkpoint()
        assert dumped.count() > last


def test_namespaces_are_the_containers_own(dumped: Migratory) -> None:
    pid = dumped.restore().state.init_pid
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup", "time"):
        theirs, ours = os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/self/ns/{kind}")
        assert theirs.st_ino != ours.st_ino, kind
    assert dumped.box.exec(dumped.container, "hostname").out == "mig-test\n"
    inside = dumped.box.exec(dumped.container, "cat /proc/self/cgroup").out
    assert all(line.endswith(":/") for line in inside.splitlines() if "migrator" in line), inside


@pytest.mark.vm
def test_limits_are_in_force_again(dumped: Migratory) -> None:
    dumped.box.update(linux={"resources": {"pids": {"limit": 77}, "cpu": {"shares": 512}}})
    container = dumped.restore()
    paths = container.cgroup.paths
    pids = paths.get("pids") or paths[""]
    assert (pids / "pids.max").read_text() == "77\n"


def test_hooks_of_the_runtime_run_before_the_network_is_restored(
    dumped: Migratory, room: Path
) -> None:
    log = room / "hooks"

    def hook(name: str) -> list[dict[str, Any]]:
        script = f"echo {name} $(cat | tr -d ' \"' | grep -o 'pid:[0-9]*') >> {log}"
        return [{"path": "/bin/sh", "args": ["sh", "-c", script]}]

    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart")
    dumped.box.update(hooks={name: hook(name) for name in names})
    pid = dumped.restore().state.init_pid
    assert log.read_text().splitlines() == [f"prestart pid:{pid}", f"createRuntime pid:{pid}"]


def test_the_pid_file_is_there_before_it_runs(dumped: Migratory, room: Path) -> None:
    seen: list[str] = []
    look = at(Script.POST_RESTORE, lambda _: seen.append((room / "pid").read_text()))
    container = dumped.restore(pid_file=room / "pid", on_notify=look)
    assert seen == [str(container.state.init_pid)]


@pytest.mark.vm
def test_a_held_restore_is_whole_and_does_not_run(dumped: Migratory) -> None:
    last = dumped.count()

    def look(notification: Notification) -> None:
        held = Container.load(dumped.box.root, dumped.box.id)
        assert held.state.init_pid == notification.pid
        assert held.status() is Status.RUNNING
        assert dumped.stands_still()
        assert dumped.count() == last

    dumped.restore(on_notify=at(Script.POST_RESTORE, look))
    assert dumped.counts()


REFUSALS = [Script.PRE_RESTORE, Script.SETUP_NAMESPACES, Script.POST_RESTORE]


@pytest.mark.parametrize("moment", REFUSALS)
def test_a_refused_restore_leaves_nothing(
    dumped: Migratory, traceless_failure: Callable[[], None], moment: Script
) -> None:
    with pytest.raises(LookupError, match="no"):
        dumped.restore(on_notify=at(moment, refuse))
    traceless_failure()
    dumped.restore()
    assert dumped.counts()


@pytest.mark.vm
@pytest.mark.parametrize("moment", REFUSALS)
def test_a_criu_killed_in_a_restore_leaves_nothing(
    dumped: Migratory, traceless_failure: Callable[[], None], moment: Script
) -> None:
    restore = dumped.restoring()
    restore.prepare()
    pid = restore.criu_pid
    with pytest.raises(RestoreFailed, match="was killed by SIGKILL"):
        restore.run(at(moment, lambda _: os.kill(pid, signal.SIGKILL)))
    traceless_failure()
    dumped.restore()
    assert dumped.counts()


def test_what_is_raised_too_late_comes_out_of_a_running_container(dumped: Migratory) -> None:
    with pytest.raises(LookupError):
        dumped.restore(on_notify=at(Script.POST_RESUME, refuse))
    assert Container.load(dumped.box.root, dumped.box.id).status() is Status.RUNNING
    assert dumped.counts()


def test_an_abort_leaves_nothing_and_can_be_repeated(
    dumped: Migratory, traceless_failure: Callable[[], None]
) -> None:
    restore = dumped.restoring()
    restore.prepare()
    assert Path(f"/proc/{restore.criu_pid}").exists()
    restore.abort()
    restore.abort()
    traceless_failure()


def test_prepare_needs_no_image_when_it_is_given_the_record(migratory: Migratory) -> None:
    migratory.start()
    plan = Checkpoint(migratory.container, CheckpointOptions(image_path=migratory.images))
    sent = json.loads(
        json.dumps(RestoreOptions(image_path=Path("/"), record=plan.record).to_wire())
    )
    options = RestoreOptions.from_wire(sent, images_dir=migratory.images)
    name = migratory.box.id + "-there"
    migratory.box.made.append(name)
    restore = Restore(migratory.box.root, name, migratory.box.bundle.path, options)
    restore.prepare()
    assert not migratory.images.exists()
    assert migratory.counts()
    plan.run()
    last = migratory.count()
    assert restore.run().status() is Status.RUNNING
    assert migratory.counts()
    assert migratory.count() > last


def test_an_id_that_is_taken_is_refused_and_left_alone(dumped: Migratory) -> None:
    dumped.restore()
    with pytest.raises(ContainerExists):
        dumped.restore()
    assert dumped.counts()


def test_a_failing_hook_undoes_all_and_poststop_is_run(
    dumped: Migratory, traceless_failure: Callable[[], None], room: Path
) -> None:
    stopped = room / "stopped"
    dumped.box.update(
        hooks={
            "createRuntime": [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/touch", "args": ["touch", str(stopped)]}],
        }
    )
    with pytest.raises(HookFailed, match="/bin/false"):
        dumped.restore()
    assert stopped.exists()
    traceless_failure()


def test_a_changed_program_is_refused_by_name(
    dumped: Migratory, traceless_failure: Callable[[], None]
) -> None:
    with (dumped.box.bundle.rootfs / "bin/busybox").open("ab") as program:
        program.write(b"x")
    with pytest.raises(RestoreFailed, match=r"busybox has bad size.*not as it was when dumped"):
        dumped.restore()
    traceless_failure()


def test_a_missing_bind_source_is_named(migratory: Migratory, room: Path) -> None:
    (room / "data").mkdir()
    spec = migratory.box.bundle.spec
    spec["mounts"].append(
        {"destination": "/srv", "type": "bind", "source": str(room / "data"), "options": ["bind"]}
    )
    migratory.box.bundle.write(spec)
    migratory.start().checkpoint()
    (room / "data").rmdir()
    with pytest.raises(SetupFailed, match=f"{room}/data"):
        migratory.restore()


def test_the_rootfs_gets_the_mount_points_that_it_lacks(dumped: Migratory) -> None:
    """As of a rootfs that was copied without them."""
    rootfs = dumped.box.bundle.rootfs
    for name in ("proc", "sys", "dev"):
        shutil.rmtree(rootfs / name)
    dumped.restore()
    assert dumped.counts()


def rewrite(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(images: Path) -> None:
        (images / name).write_bytes(content)

    return damage


def damage_record(**fields: Any) -> Callable[[Path], None]:
    def damage(images: Path) -> None:
        path = images / "migrator.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def make_link(name: str, target: str) -> Callable[[Path], None]:
    def damage(images: Path) -> None:
        (images / name).unlink()
        (images / name).symlink_to(target)

    return damage


def make_pipe(images: Path) -> None:
    (images / "inventory.img").unlink()
    os.mkfifo(images / "inventory.img")


def empty(images: Path) -> None:
    for path in images.iterdir():
        path.unlink()


BAD_DESCRIPTOR = {"kind": "file", "link": "", "key": "/etc", "position": 0}
NOT_MADE_BY_CRIU = "is damaged, or not made by CRIU"
UNUSABLE = "migrator.json cannot be used"

#: what is done to the image directory, and what the error says
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no directory": (shutil.rmtree, "No such file"),
    "empty": (empty, "has no inventory.img"),
    "no inventory": (lambda images: (images / "inventory.img").unlink(), "has no inventory.img"),
    "inventory of nonsense": (rewrite("inventory.img", os.urandom(99)), NOT_MADE_BY_CRIU),
    "inventory empty": (rewrite("inventory.img", b""), NOT_MADE_BY_CRIU),
    "inventory cut short": (
        lambda images: os.truncate(images / "inventory.img", 9),
        "criu restore failed",
    ),
    "inventory a pipe": (make_pipe, "is not a plain file"),
    "memory cut short": (
        lambda images: os.truncate(images / "pages-1.img", 4096),
        "pages-1.img: is cut short: has 4096 of ",
    ),
    "no memory": (lambda images: (images / "pages-1.img").unlink(), "is cut short: has 0 of"),
    "memory map of nonsense": (rewrite("pagemap-1.img", os.urandom(99)), "is damaged"),
    "memory a link": (make_link("pages-1.img", "/etc/shadow"), "is not a plain file"),
    "processes of nonsense": (rewrite("pstree.img", os.urandom(64)), "criu restore failed"),
    "mounts missing": (
        lambda images: next(images.glob("mountpoints-*.img")).unlink(),
        "criu restore failed",
    ),
    "record of nonsense": (rewrite("migrator.json", b"{"), UNUSABLE),
    "record of a deep nest": (rewrite("migrator.json", b"[" * 100_000), UNUSABLE),
    "record too long": (rewrite("migrator.json", b" " * 2_000_000), UNUSABLE),
    "record a link": (make_link("migrator.json", "/etc/passwd"), "is not a plain file"),
    "record of another version": (damage_record(version=3), "format version"),
    "record with a bad key": (
        damage_record(descriptors=[BAD_DESCRIPTOR] * 3),
        "is not CRIU's name of a file",
    ),
    "record that climbs": (
        damage_record(submounts=["/srv/../../etc"]),
        "is not the path of a mount",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_hostile_image_directory_is_one_clear_error(
    dumped: Migratory, traceless_failure: Callable[[], None], how: str
) -> None:
    damage, message = DAMAGES[how]
    damage(dumped.images)
    with pytest.raises(ContainerError, match=message) as caught:
        dumped.restore()
    assert "\n" not in str(caught.value)
    traceless_failure()


def test_images_of_another_runtime_can_be_restored(dumped: Migratory) -> None:
    """They have descriptors.json, and no record of ours."""
    (dumped.images / "migrator.json").unlink()
    dumped.restore()
    assert dumped.counts()


def test_systemd_makes_the_cgroup_again_unless_that_is_not_wished(
    dumped: Migratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    record = dumped.images / "migrator.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"systemd_cgroup": True}))
    with pytest.raises(CgroupError, match="no system bus to systemd"):
        dumped.restore()
    dumped.restore(systemd_cgroup=False)
    assert dumped.counts()


def test_the_state_directory_is_private(dumped: Migratory) -> None:
    container = dumped.restore()
    assert stat.S_IMODE(container.dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((container.dir / "state.json").stat().st_mode) == 0o600


def test_a_restore_that_was_killed_is_removed_by_delete(dumped: Migratory) -> None:
    """Its criu hears that nobody speaks to it any more, and kills what it holds."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:

        def hold(notification: Notification) -> None:
            os.write(told, str(notification.pid).encode())
            signal.pause()

        try:
            dumped.restore(on_notify=at(Script.POST_RESTORE, hold))
        finally:
            os._exit(1)
    os.close(told)
    init = int(os.read(ready, 32))
    os.close(ready)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert eventually(lambda: not Path(f"/proc/{init}/exe").exists())
    assert dumped.stands_still()
    Container.remove(dumped.box.root, dumped.box.id, force=True)
    dumped.restore()
    assert dumped.counts()


def test_a_cgroup_that_is_in_use_is_refused_and_left_alone(
    dumped: Migratory, traceless_failure: Callable[[], None]
) -> None:
    """Its processes are another's."""
    with subprocess.Popen(["sleep", "1000"]) as other:
        cgroup = manager(resolve_path("", dumped.box.id))
        cgroup.create()
        cgroup.join(other.pid)
        try:
            with pytest.raises(CgroupError, match="cgroup is not empty"):
                dumped.restore()
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()
            cgroup.destroy()
    traceless_failure()
