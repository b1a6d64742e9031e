"""Podman calls the runtime, through conmon, as it calls runc."""

from collections.abc import Iterator

import pytest

from tests.clients.apart import MIGRATOR, Apart
from tests.clients.conftest import Podman

pytestmark = [pytest.mark.needs_podman, pytest.mark.needs_busybox]

BOX = Podman.box


@pytest.fixture(scope="module")
def podman(place: Apart) -> Podman:
    return Podman(place).take_image(place)


@pytest.fixture
def sleeper(podman: Podman) -> Iterator[str]:
    with podman.sleeper() as sleeper:
        yield sleeper


def test_a_container_is_run_and_its_exit_status_passed_on(podman: Podman) -> None:
    done = podman("run", "--rm", *BOX, "box", "sh", "-c", "echo said; exit 3")
    assert (done.returncode, done.stdout) == (3, "said\n"), done.stderr
    assert podman("ps", "--all", "--quiet").stdout == ""


@pytest.mark.parametrize(("program", "code"), [("nosuch", 127), ("/etc", 126)])
def test_a_program_that_cannot_be_run_has_the_exit_status_for_it(
    podman: Podman, program: str, code: int
) -> None:
    assert podman("run", "--rm", *BOX, "box", program).returncode == code


def test_a_terminal_is_one(podman: Podman) -> None:
    done = podman(
        "run", "--rm", "--tty", *BOX, "box", "sh", "-c", "test -t 0 && readlink -f /proc/self/fd/0"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "/dev/pts/0"), done.stderr


def test_a_command_is_run_inside(podman: Podman, sleeper: str) -> None:
    done = podman("exec", sleeper, "sh", "-c", "echo inside; exit 4")
    assert (done.returncode, done.stdout) == (4, "inside\n"), done.stderr
    assert podman("exec", "--detach", sleeper, "sleep", "inf").returncode == 0
    assert podman("top", sleeper, "args").stdout.count("sleep inf") == 2


def test_it_is_paused_and_goes_on(podman: Podman, sleeper: str) -> None:
    assert podman("pause", sleeper).returncode == 0
    assert podman.status(sleeper) == "paused"
    assert podman("unpause", sleeper).returncode == 0
    assert podman.status(sleeper) == "running"


@pytest.mark.needs_criu
def test_it_is_checkpointed_and_restored(podman: Podman, sleeper: str) -> None:
    dumped = podman("container", "checkpoint", sleeper)
    assert dumped.returncode == 0, dumped.stderr
    assert podman.status(sleeper) == "exited"
    restored = podman("container", "restore", sleeper)
    assert restored.returncode == 0, restored.stderr
    assert "sleep inf" in podman("top", sleeper, "args").stdout


@pytest.mark.needs_criu
def test_it_is_moved_as_a_file(podman: Podman, sleeper: str, place: Apart) -> None:
    file = str(place.room / "sleeper.tar")
    dumped = podman("container", "checkpoint", "--export", file, sleeper)
    assert dumped.returncode == 0, dumped.stderr
    assert podman(*podman.remove, sleeper).returncode == 0
    restored = podman("container", "restore", "--import", file)
    assert restored.returncode == 0, restored.stderr
    assert "sleep inf" in podman("top", sleeper, "args").stdout


@pytest.mark.needs_criu
def test_it_is_not_moved_behind_its_back(podman: Podman, sleeper: str, place: Apart) -> None:
    name = podman("inspect", "--format", "{{.Id}}", sleeper).stdout.strip()
    refused = place.run(MIGRATOR, "migrate", name, "root@nowhere.invalid")
    assert refused.returncode == 1
    assert "is kept by Podman, which would take its leaving for its end" in refused.stderr
    assert "podman container checkpoint --export FILE" in refused.stderr
    assert podman.status(sleeper) == "running"


def test_it_is_stopped_and_started_again(podman: Podman, sleeper: str) -> None:
    assert podman("stop", "--time", "0", sleeper).returncode == 0
    assert podman.status(sleeper) == "exited"
    assert podman("start", sleeper).returncode == 0
    assert podman("kill", sleeper).returncode == 0
