"""The installed `migrator` from outside: what a caller of an OCI runtime relies on."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.network import in_netns
from tests import leftovers
from tests.bundles import Bundle
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

PROGRAM = Path(sys.executable).with_name("migrator")
TIMEOUT_S = 30


class Migrator:
    """The program, with a state root of its own."""

    def __init__(self, root: Path) -> None:
        self.argv = [str(PROGRAM), "--root", str(root)]

    def __call__(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | settings
        return subprocess.run(
            [*self.argv, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            **options,
        )

    def ok(self, *arguments: str, **settings: Any) -> str:
        """Standard output of a command that must succeed."""
        done = self(*arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout or ""

    def leave(self, *arguments: str) -> None:
        """A command that succeeds and leaves a process with its output: to no pipe of ours."""
        with tempfile.TemporaryFile("w+") as said:
            argv = [*self.argv, *arguments]
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=TIMEOUT_S,
                check=False,
            )
            said.seek(0)
            assert done.returncode == 0, said.read()

    def failure(self, *arguments: str, code: int = 1) -> str:
        """The one line of a command that must fail."""
        done = self(*arguments)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("migrator: ").rstrip("\n")

    def status(self, container: str) -> str:
        found = json.loads(self.ok("state", container))["status"]
        assert isinstance(found, str)
        return found

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        """A command that runs beside the test."""
        return subprocess.Popen([*self.argv, *arguments], text=True, **settings)


@pytest.fixture
def migrator(state_root: Path, name: str) -> Iterator[Migrator]:
    """The program; the test's container is removed in the end."""
    program = Migrator(state_root)
    yield program
    for state in state_root.iterdir():
        program.ok("delete", "--force", state.name)


@pytest.fixture
def sleeper(migrator: Migrator, bundle: Callable[..., Bundle], name: str) -> str:
    """A running container that does nothing, by its id."""
    path = bundle("sleep", "inf").path
    migrator.leave("run", "--detach", "--bundle", str(path), name)
    return name


def cgroups_of(container: str) -> list[Path]:
    return leftovers.cgroups(lambda found: found == container)


def test_a_container_goes_through_its_life(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, room: Path
) -> None:
    path = bundle("sleep", "inf").path
    migrator.leave("create", "-b", str(path), "--pid-file", str(room / "pid"), name)
    state = json.loads(migrator.ok("state", name))
    assert state["pid"] == int((room / "pid").read_text())
    assert list(state) == [
        *("ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"),
    ]
    assert (state["status"], state["owner"]) == ("created", "root")
    assert (state["bundle"], state["rootfs"]) == (str(path), str(path / "rootfs"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", state["created"])
    migrator.ok("start", name)
    assert migrator.status(name) == "running"
    migrator.ok("pause", name)
    assert migrator.status(name) == "paused"
    migrator.ok("resume", name)
    assert migrator.status(name) == "running"
    migrator.ok("kill", name, "KILL")
    assert eventually(lambda: migrator.status(name) == "stopped")
    assert json.loads(migrator.ok("state", name))["pid"] == 0
    migrator.ok("delete", name)
    assert "does not exist" in migrator.failure("state", name)
    assert not cgroups_of(name)


def test_annotations_are_part_of_the_state(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str
) -> None:
    made = bundle("sleep", "inf")
    made.update(annotations={"org.example.key": "value"})
    migrator.leave("create", "-b", str(made.path), name)
    state = json.loads(migrator.ok("state", name))
    assert state["annotations"] == {"org.example.key": "value"}


def test_run_ends_with_the_exit_code_of_the_process_and_leaves_nothing(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, state_root: Path
) -> None:
    path = bundle("sh", "-c", "read line; echo got $line; echo bad >&2; exit 7").path
    done = migrator("run", "-b", str(path), name, stdin=None, input="it\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "got it\n", "bad\n")
    assert not list(state_root.iterdir())
    assert not cgroups_of(name)


def test_run_keeps_the_container_on_demand(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str
) -> None:
    migrator.ok("run", "--keep", "-b", str(bundle("true").path), name)
    assert migrator.status(name) == "stopped"


def test_run_passes_signals_on_and_ends_as_a_shell_would(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str
) -> None:
    script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    path = bundle("sh", "-c", script).path
    with migrator.start("run", "-b", str(path), name, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "term\n"
        assert running.wait(TIMEOUT_S) == 3


def test_run_reports_a_process_that_a_signal_ended(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str
) -> None:
    path = bundle("sleep", "inf").path
    with migrator.start("run", "-b", str(path), name) as running:
        assert eventually(
            lambda: name in migrator.ok("list", "-q") and migrator.status(name) == "running"
        )
        migrator.ok("kill", name, "9")
        assert running.wait(TIMEOUT_S) == 128 + 9


def test_files_and_pipes_are_the_processes_own_descriptors(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, room: Path
) -> None:
    path = bundle("sh", "-c", "echo out; echo more >&3").path
    run = f"{' '.join(migrator.argv)} run --preserve-fds 1 -b {path} {name}"
    command = f"{run} >{room}/out 3>{room}/three"
    subprocess.run(["sh", "-c", command], timeout=TIMEOUT_S, check=True)
    assert (room / "out").read_text() == "out\n"
    assert (room / "three").read_text() == "more\n"


def test_a_closed_descriptor_is_null_to_the_container(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, room: Path
) -> None:
    script = "for fd in 0 1; do to=$(readlink /proc/$$/fd/$fd); echo $to >&2; done"
    path = bundle("sh", "-c", script).path
    command = f"{' '.join(migrator.argv)} run -b {path} {name} <&- >&- 2>{room}/said"
    subprocess.run(["sh", "-c", command], timeout=TIMEOUT_S, check=True)
    assert (room / "said").read_text() == "/dev/null\n" * 2


def test_exec_runs_beside_the_containers_process(migrator: Migrator, sleeper: str) -> None:
    done = migrator("exec", sleeper, "sh", "-c", "echo $0 $1; exit 9", "-x", "--env")
    assert (done.returncode, done.stdout) == (9, "-x --env\n")


def test_exec_takes_what_its_options_say(migrator: Migrator, sleeper: str) -> None:
    shown = migrator.ok(
        *("exec", "--cwd", "/tmp", "-e", "A=1", "--env", "B=2", "-u", "1000:1001", "-g", "7"),
        *("--cap", "CAP_SYS_TIME", "--no-new-privs", sleeper, "sh", "-c"),
        "pwd; echo $A $B; id -u; id -g; id -G; grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
    )
    assert shown.split() == [
        *("/tmp", "1", "2", "1000", "1001", "1001", "7"),
        *("CapBnd:", f"{1 << 5 | 1 << 10 | 1 << 25 | 1 << 29:016x}", "NoNewPrivs:", "1"),
    ]


def test_exec_takes_a_process_file(migrator: Migrator, sleeper: str, room: Path) -> None:
    process = {"args": ["sh", "-c", "id -u; echo $X"], "cwd": "/", "env": ["X=y", "PATH=/bin"]}
    (room / "process.json").write_text(json.dumps(process | {"user": {"uid": 5, "gid": 5}}))
    assert migrator.ok("exec", "-p", str(room / "process.json"), sleeper) == "5\ny\n"


def test_exec_in_the_background_writes_its_pid(
    migrator: Migrator, sleeper: str, room: Path
) -> None:
    options = ("-d", "--pid-file", str(room / "pid"))
    migrator.leave("exec", *options, sleeper, "sleep", "inf")
    pids = json.loads(migrator.ok("ps", "-f", "json", sleeper))
    assert int((room / "pid").read_text()) in pids
    assert len(pids) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-of-that-name"], "executable file not found in $path"),
        (["/etc"], "permission denied"),
    ],
)
def test_exec_of_what_cannot_be_executed_says_why(
    migrator: Migrator, sleeper: str, arguments: list[str], message: str
) -> None:
    assert message in migrator.failure("exec", sleeper, *arguments, code=255).lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user", "root"], "--user 'root': give a number, or two as UID:GID"),
        (["--env", "novalue"], "exec: env[2]"),
        (["--cwd", "relative"], "exec: cwd"),
    ],
)
def test_exec_names_an_option_that_cannot_be(
    migrator: Migrator, sleeper: str, options: list[str], message: str
) -> None:
    assert message in migrator.failure("exec", *options, sleeper, "true", code=255)


def test_ps_shows_the_containers_processes_alone(migrator: Migrator, sleeper: str) -> None:
    header, *lines = migrator.ok("ps", sleeper).splitlines()
    assert "PID" in header
    assert [line.endswith("sleep inf") for line in lines] == [True]
    assert migrator.ok("ps", sleeper, "-o", "pid,comm").split()[:2] == ["PID", "COMMAND"]
    assert "no column PID" in migrator.failure("ps", sleeper, "-o", "comm")


def test_the_list_shows_every_container(migrator: Migrator, sleeper: str) -> None:
    header, line = migrator.ok("list").splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert line.split()[0] == sleeper
    assert header.index("PID") == line.index(line.split()[1])
    assert migrator.ok("list", "-q") == f"{sleeper}\n"
    assert json.loads(migrator.ok("list", "-f", "json"))[0]["status"] == "running"


def test_a_signal_may_be_for_every_process(migrator: Migrator, sleeper: str) -> None:
    migrator.leave("exec", "-d", sleeper, "sleep", "inf")
    migrator.ok("kill", "--all", sleeper, "KILL")
    assert eventually(lambda: migrator.status(sleeper) == "stopped")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("delete",), "is running, not stopped: kill it first"),
        (("start",), "is running, not created"),
        (("resume",), "is running, not paused"),
    ],
)
def test_a_verb_that_does_not_fit_the_status_is_refused(
    migrator: Migrator, sleeper: str, arguments: tuple[str, ...], message: str
) -> None:
    assert message in migrator.failure(*arguments, sleeper)
    assert migrator.status(sleeper) == "running"


def test_an_id_that_is_taken_is_refused(
    migrator: Migrator, sleeper: str, bundle: Callable[..., Bundle]
) -> None:
    path = bundle("true", name="second").path
    assert "already exists" in migrator.failure("create", "-b", str(path), sleeper)
    assert migrator.status(sleeper) == "running"


def test_a_create_that_fails_leaves_nothing_and_its_reason_in_the_log(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, room: Path, state_root: Path
) -> None:
    made = bundle("true")
    made.update(process={"cwd": "relative"})
    log = ("--log", str(room / "log"), "--log-format", "json")
    said = migrator.failure(*log, "create", "-b", str(made.path), name)
    assert "process.cwd" in said
    record = json.loads((room / "log").read_text().splitlines()[-1])
    assert (record["level"], record["msg"]) == ("error", said)
    assert not list(state_root.iterdir())
    assert not cgroups_of(name)


def test_a_bundle_that_is_not_there_is_named(migrator: Migrator, room: Path, name: str) -> None:
    assert "no such directory" in migrator.failure("run", "-b", str(room / "none"), name)


@pytest.fixture
def host(name: str) -> Iterator[Path]:
    """The test is in a network namespace that plays the host, with a bridge br0."""
    path = leftovers.NETNS / f"{name}-host"
    subprocess.run(["ip", "netns", "add", path.name], check=True)
    with in_netns(path):
        for command in (
            "link add br0 type bridge",
            "link set br0 up",
            "address add 10.1.0.1/24 dev br0",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield path
    subprocess.run(["ip", "netns", "delete", path.name], check=True)


@pytest.mark.needs_veth
@pytest.mark.needs_bridge
@pytest.mark.usefixtures("host")
def test_networks_and_routes_are_there_and_go_with_the_container(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, state_root: Path
) -> None:
    veth = "veth,name=eth0,bridge=br0,address=10.1.0.2/24,gateway=10.1.0.1,mac=02:00:00:00:00:02"
    route = "destination=10.2.0.0/16,gateway=10.1.0.9"
    options = ("--network", veth, "--route", route, "-b", str(bundle("sleep", "inf").path))
    migrator.leave("run", "-d", *options, name)
    assert migrator.ok("exec", name, "ip", "route") == (
        "default via 10.1.0.1 dev eth0 \n"
        "10.1.0.0/24 dev eth0 scope link  src 10.1.0.2 \n"
        "10.2.0.0/16 via 10.1.0.9 dev eth0 \n"
    )
    assert "02:00:00:00:00:02" in migrator.ok("exec", name, "cat", "/sys/class/net/eth0/address")
    state = json.loads((state_root / name / "state.json").read_text())
    assert [network["type"] for network in state["networks"]] == ["loopback", "veth"]
    host_end = state["networks"][1]["host_interface_name"]
    assert subprocess.run(["ip", "link", "show", host_end], check=False).returncode == 0
    migrator.ok("delete", "--force", name)
    assert subprocess.run(["ip", "link", "show", host_end], check=False).returncode == 1


@pytest.mark.usefixtures("host")
def test_a_network_that_cannot_be_made_leaves_no_container(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, state_root: Path
) -> None:
    options = ("--network", "veth,name=eth0,bridge=br7", "-b", str(bundle("true").path))
    assert migrator.failure("create", *options, name) == (
        "network interface eth0: bridge br7 does not exist on this host: "
        "create it or give --network ...,bridge=NAME"
    )
    assert not list(state_root.iterdir())
    assert not cgroups_of(name)


def test_a_network_file_is_read(
    migrator: Migrator, bundle: Callable[..., Bundle], name: str, room: Path
) -> None:
    (room / "network.json").write_text('{"networks": [{"type": "veth", "name": "a b"}]}')
    options = ("--network-file", str(room / "network.json"), "-b", str(bundle("true").path))
    assert "name 'a b' is no interface name" in migrator.failure("create", *options, name)


def test_a_state_costs_little(migrator: Migrator, sleeper: str) -> None:
    durations = []
    for _ in range(7):
        start = time.perf_counter()
        migrator.ok("state", sleeper)
        durations.append(time.perf_counter() - start)
    # ten times what it takes on an idle machine: this finds an import gone astray, not a bad day
    assert min(durations) < 0.7
