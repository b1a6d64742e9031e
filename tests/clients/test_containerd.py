"""containerd's shim calls the runtime as it calls runc."""

from collections.abc import Iterator

import pytest

from tests.clients.apart import MIGRATOR, Apart, eventually
from tests.clients.conftest import Ctr, oci_archive

pytestmark = [pytest.mark.needs_containerd, pytest.mark.needs_busybox]


@pytest.fixture(scope="module")
def ctr(place: Apart) -> Ctr:
    return Ctr(place)


@pytest.fixture
def sleeper(ctr: Ctr) -> Iterator[str]:
    started = ctr.run("--detach", name="sleeper", command=("sleep", "inf"))
    assert started.returncode == 0, started.stderr
    yield "sleeper"
    ctr("task", "rm", "--force", "sleeper")
    assert ctr("container", "rm", "sleeper").returncode == 0
    assert "sleeper" not in ctr("task", "list").stdout


def status(ctr: Ctr, container: str) -> str:
    lines = ctr("task", "list").stdout.splitlines()
    return next((line.split()[-1] for line in lines if line.startswith(container)), "")


def test_a_container_is_run_and_its_exit_status_passed_on(ctr: Ctr) -> None:
    done = ctr.run("--rm", name="once", command=("sh", "-c", "echo said; exit 3"))
    assert (done.returncode, done.stdout) == (3, "said\n"), done.stderr


def test_why_a_container_cannot_be_made_is_passed_on(ctr: Ctr) -> None:
    done = ctr.run("--rm", name="none", command=("nosuch",))
    assert done.returncode == 1
    assert "exec nosuch: executable file not found in $PATH" in done.stderr


def test_a_command_is_run_inside(ctr: Ctr, sleeper: str) -> None:
    command = ("sh", "-c", "echo inside; exit 4")
    done = ctr("task", "exec", "--exec-id", "inside", sleeper, *command)
    assert (done.returncode, done.stdout) == (4, "inside\n"), done.stderr


def test_it_is_paused_and_goes_on(ctr: Ctr, sleeper: str) -> None:
    assert ctr("task", "pause", sleeper).returncode == 0
    assert status(ctr, sleeper) == "PAUSED"
    assert ctr("task", "resume", sleeper).returncode == 0
    assert status(ctr, sleeper) == "RUNNING"


def test_its_processes_and_figures_are_known(ctr: Ctr, sleeper: str) -> None:
    assert len(ctr("task", "ps", sleeper).stdout.splitlines()) == 2
    assert "pids.current             1" in ctr("task", "metrics", sleeper).stdout


@pytest.mark.needs_criu
def test_it_is_checkpointed_and_runs_on(ctr: Ctr, sleeper: str, place: Apart) -> None:
    images = place.room / "images"
    done = ctr("task", "checkpoint", "--image-path", str(images), sleeper)
    assert done.returncode == 0, done.stderr
    assert (images / "inventory.img").exists()
    assert status(ctr, sleeper) == "RUNNING"


@pytest.mark.needs_criu
def test_it_is_restored_from_an_image(ctr: Ctr, place: Apart) -> None:
    image, checkpoint = "box.local/box:1", "box.local/checkpoint:1"
    runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", str(MIGRATOR))
    script = "while :; do sleep 1; done"
    for step in (
        ("image", "import", str(oci_archive(place.room, image))),
        ("run", "--detach", *runtime, image, "first", "sh", "-c", script),
        ("container", "checkpoint", "--task", "first", checkpoint),
        ("task", "rm", "--force", "first"),
        ("container", "rm", "first"),
        ("container", "restore", "--live", "second", checkpoint),
    ):
        done = ctr(*step)
        assert done.returncode == 0, done.stderr
    assert status(ctr, "second") == "RUNNING"
    assert "alive" in ctr("task", "exec", "--exec-id", "x", "second", "echo", "alive").stdout
    ctr("task", "rm", "--force", "second")
    assert ctr("container", "rm", "second").returncode == 0


@pytest.mark.needs_criu
def test_it_is_not_moved_behind_its_back(ctr: Ctr, sleeper: str, place: Apart) -> None:
    root = ("--root", "/run/containerd/runc/default")
    refused = place.run(MIGRATOR, *root, "migrate", sleeper, "root@nowhere.invalid")
    assert refused.returncode == 1
    assert "is kept by containerd, which would take its leaving for its end" in refused.stderr
    assert status(ctr, sleeper) == "RUNNING"


def test_it_is_killed(ctr: Ctr, sleeper: str) -> None:
    assert ctr("task", "kill", "--signal", "KILL", sleeper).returncode == 0
    eventually(lambda: status(ctr, sleeper) == "STOPPED")
