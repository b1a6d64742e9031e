"""Docker Engine calls the runtime, through containerd's shim, as it calls runc."""

from collections.abc import Iterator

import pytest

from tests.clients.apart import Apart, eventually
from tests.clients.conftest import Docker

pytestmark = [pytest.mark.needs_docker, pytest.mark.needs_busybox]

BOX = Docker.box


@pytest.fixture(scope="module")
def docker(place: Apart) -> Docker:
    return Docker(place).take_image(place)


@pytest.fixture
def sleeper(docker: Docker) -> Iterator[str]:
    with docker.sleeper() as sleeper:
        yield sleeper


def test_it_is_the_runtime(docker: Docker) -> None:
    assert docker("info", "--format", "{{.DefaultRuntime}}").stdout == "migrator\n"


def test_a_container_is_run_and_its_exit_status_passed_on(docker: Docker) -> None:
    done = docker("run", "--rm", *BOX, "box", "sh", "-c", "echo said; exit 3")
    assert (done.returncode, done.stdout) == (3, "said\n"), done.stderr
    assert docker("ps", "--all", "--quiet").stdout == ""


@pytest.mark.parametrize(("program", "code"), [("nosuch", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run_has_the_exit_status_for_it(
    docker: Docker, program: str, code: int
) -> None:
    assert docker("run", "--rm", *BOX, "box", program).returncode == code


def test_a_terminal_is_one(docker: Docker) -> None:
    script = "test -t 0 && readlink -f /proc/self/fd/0"
    done = docker("run", "--rm", "--tty", *BOX, "box", "sh", "-c", script)
    assert (done.returncode, done.stdout.strip()) == (0, "/dev/pts/0"), done.stderr


def test_a_container_is_as_confined_as_is_asked(docker: Docker) -> None:
    confined = ("--init", "--read-only", "--user", "1000:1000", "--cap-drop", "ALL")
    script = "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; touch /x || echo read-only"
    options = ("--security-opt", "no-new-privileges", *confined, *BOX)
    done = docker("run", "--rm", *options, "box", "sh", "-c", script)
    expected = ["1000", f"CapEff:\t{'0' * 16}", "NoNewPrivs:\t1", "read-only"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_a_command_is_run_inside(docker: Docker, sleeper: str) -> None:
    done = docker("exec", sleeper, "sh", "-c", "echo inside; exit 4")
    assert (done.returncode, done.stdout) == (4, "inside\n"), done.stderr
    assert docker("exec", "--detach", sleeper, "sleep", "inf").returncode == 0
    assert docker("top", sleeper).stdout.count("sleep inf") == 2


def test_it_is_paused_and_goes_on(docker: Docker, sleeper: str) -> None:
    assert docker("pause", sleeper).returncode == 0
    assert docker.status(sleeper) == "paused"
    assert docker("unpause", sleeper).returncode == 0
    assert docker.status(sleeper) == "running"


@pytest.mark.needs_cgroup_v1
def test_its_limits_are_changed(docker: Docker, sleeper: str) -> None:
    memory = ("--memory", "64m", "--memory-swap", "128m")
    done = docker("update", *memory, "--cpu-shares", "512", "--pids-limit", "50", sleeper)
    assert done.returncode == 0, done.stderr
    shown = docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", sleeper)
    assert shown.stdout.rstrip().endswith("/ 64MiB 1")


@pytest.mark.needs_criu
def test_it_is_checkpointed_and_restored(docker: Docker, sleeper: str) -> None:
    dumped = docker("checkpoint", "create", sleeper, "first")
    assert dumped.returncode == 0, dumped.stderr
    eventually(lambda: docker.status(sleeper) == "exited", lambda: docker.status(sleeper))
    # containerd has the checkpoint's content until it next collects garbage, and Docker 20.10 wants
    # to put the same content there: "commit failed: content sha256:...: already exists".
    said = [""]

    def collected() -> bool:
        restored = docker("start", "--checkpoint", "first", sleeper)
        said.append(restored.stderr)
        return not restored.returncode or "already exists" not in restored.stderr

    eventually(collected, lambda: said[-1])
    assert docker.status(sleeper) == "running", said[-1]
    assert "sleep inf" in docker("top", sleeper).stdout


def test_it_is_stopped_and_started_again(docker: Docker, sleeper: str) -> None:
    assert docker("stop", "--time", "0", sleeper).returncode == 0
    assert docker.status(sleeper) == "exited"
    assert docker("start", sleeper).returncode == 0
    assert docker("kill", sleeper).returncode == 0
