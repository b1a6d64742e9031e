"""The command line as an ordinary user has it: nobody, who is root of what nobody runs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, recv_fds, socket
from typing import Any

import pytest

from runtime.cgroups.detect import detect
from tests.bundles import Bundle
from tests.seccomp_agent import Agent
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_ordinary_user]

MIGRATOR = Path(__file__).parents[2] / ".venv/bin/migrator"
NOBODY = 65534
LENT = 700_000
LENT_GROUPS = 800_000
SIZE = 1000


class User:
    """Nobody, with a bundle and a runtime directory; *prefix*: how to become nobody."""

    def __init__(self, bundle: Bundle, runtime_directory: Path) -> None:
        self.bundle = bundle
        self.runtime_directory = runtime_directory
        self.prefix = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self.runtime_directory)}
        return subprocess.run(
            [*self.prefix, MIGRATOR, *arguments],
            env=environment,
            cwd=self.bundle.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, container_id: str, *command: str) -> str:
        """Start a container that goes on; returns what went wrong. No pipe of ours goes with it."""
        with (self.runtime_directory / "log").open("w+") as log:
            subprocess.run(
                [*self.prefix, MIGRATOR, *(command or ("run", "--detach")), container_id],
                env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self.runtime_directory)},
                cwd=self.bundle.path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                timeout=60,
                check=False,
            )
            log.seek(0)
            return log.read()

    def program(self, script: str, **process: Any) -> None:
        self.bundle.update(process={"args": ["sh", "-c", script], **process})


def give_to_nobody(path: Path) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def user(room: Path, bundle: Callable[..., Bundle], name: str) -> Iterator[User]:
    made = bundle()
    (made.path / "config.json").unlink()
    runtime_directory = room / "run"
    runtime_directory.mkdir()
    give_to_nobody(room)
    user = User(made, runtime_directory)
    assert not user.run("spec", "--rootless").stderr
    user.bundle.update(process={"terminal": False}, root={"readonly": False})
    yield user
    user.run("delete", "--force", name)


def test_the_user_is_root_inside(user: User, name: str) -> None:
    user.program("id -u; cat /proc/self/uid_map; touch /new; ls /sys/kernel /sys/fs/cgroup")
    done = user.run("run", name)
    assert done.stdout.split()[:4] == ["0", "0", str(NOBODY), "1"], done.stderr
    assert (user.bundle.rootfs / "new").stat().st_uid == NOBODY
    assert list((user.runtime_directory / "migrator").iterdir()) == []


def test_a_container_is_made_watched_entered_and_removed(user: User, name: str) -> None:
    user.program("exec sleep 60", oomScoreAdj=500)
    assert not user.start(name)
    assert json.loads(user.run("state", name).stdout)["status"] == "running"
    assert name in user.run("list").stdout
    assert user.run("exec", name, "cat", "/proc/1/oom_score_adj").stdout == "500\n"
    assert user.run("exec", name, "readlink", "/proc/1/ns/user").stdout.startswith("user:")
    assert not user.run("kill", name, "KILL").stderr
    assert not user.run("delete", "--force", name).stderr
    assert user.run("state", name).returncode == 1


def test_a_container_of_roots_with_the_same_id_is_not_in_the_way(
    user: User, name: str, state_root: Path
) -> None:
    spec = user.bundle.spec
    user.program("exec sleep 60")
    of_root = [MIGRATOR, "--root", state_root]
    run = [*of_root, "run", "--detach", "--bundle", user.bundle.path, name]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.run(run, check=True, **quiet)
    try:
        user.bundle.write(spec)
        user.program("echo fine")
        assert user.run("run", name).stdout == "fine\n"
    finally:
        subprocess.run([*of_root, "delete", "--force", name], check=True, **quiet)


def test_what_is_started_is_no_file_that_the_user_could_write_to(user: User, name: str) -> None:
    user.program("exec sleep 60")
    assert not user.start(name, "create")
    pid = json.loads(user.run("state", name).stdout)["pid"]
    assert os.readlink(f"/proc/{pid}/exe") == "/memfd:python (deleted)"


def test_one_that_waits_for_its_start_can_be_entered(user: User, name: str) -> None:
    user.program("exec sleep 60")
    assert not user.start(name, "create")
    pid = json.loads(user.run("state", name).stdout)["pid"]
    descriptors = [*user.prefix, "ls", f"/proc/{pid}/fd"]
    theirs = subprocess.run(descriptors, capture_output=True, text=True, check=True).stdout
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in theirs.split()]
    assert {os.path.basename(path) for path in opened} == {"null", "log", "exec.fifo"}
    assert user.run("exec", name, "readlink", "/proc/1/root").stdout == "/\n"
    assert "65534" in user.run("exec", name, "cat", "/proc/self/uid_map").stdout
    assert not user.start(name, "start")
    assert json.loads(user.run("state", name).stdout)["status"] == "running"


def test_root_of_a_user_namespace_alone_has_them_too(user: User, name: str) -> None:
    """So rootless Podman calls: the user namespace is its own, and the container makes none."""
    spec = user.bundle.spec
    kept = [each for each in spec["linux"]["namespaces"] if each["type"] != "user"]
    del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
    spec["linux"]["namespaces"] = kept
    user.bundle.write(spec)
    user.program("exec sleep 60")
    prefix = user.prefix
    user.prefix = [*prefix, "unshare", "--user", "--map-root-user"]
    assert not user.start(name)
    user.prefix = prefix
    assert json.loads(user.run("state", name).stdout)["status"] == "running"


@pytest.mark.needs_libseccomp
def test_an_agent_answers_for_a_filter(user: User, name: str) -> None:
    agent = Agent(user.runtime_directory / "agent.sock", {"mkdir": errno.EXDEV})
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(agent.path),
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    user.bundle.update(linux={"seccomp": seccomp})
    user.program("mkdir /made; exec sleep 60")
    with agent:
        agent.path.chmod(0o777)
        assert "Invalid cross-device link" in user.start(name)
        assert "Invalid cross-device link" in user.run("exec", name, "mkdir", "/made").stderr
    assert [state["state"]["id"] for state in agent.states] == [name, name]


def test_it_tells_a_service_manager_that_it_is_ready(user: User, name: str) -> None:
    """Root takes the socket out of init, which nobody else may do."""
    user.program('echo "$NOTIFY_SOCKET" > /told; exec sleep 60')
    with ThreadPoolExecutor() as threads, socket(AF_UNIX, SOCK_DGRAM) as manager:
        manager.bind(str(user.runtime_directory / "manager"))
        os.chown(user.runtime_directory / "manager", NOBODY, NOBODY)
        manager.settimeout(30)
        user.prefix += ["env", f"NOTIFY_SOCKET={user.runtime_directory}/manager"]
        assert not user.start(name, "create")
        pid = json.loads(user.run("state", name).stdout)["pid"]
        started = threads.submit(user.start, name, "start")
        inside = Path(f"/proc/{pid}/root/run/notify/notify.sock")
        assert eventually(inside.exists)
        manager.sendto(b"READY=1", str(inside))
        assert manager.recv(64) == b"READY=1\n"
        assert manager.recv(64) == b"MAINPID=%d\n" % pid
        _, barrier, _, _ = recv_fds(manager, 64, 4)
        os.close(*barrier)
        assert not started.result(30)
    told = user.bundle.rootfs / "told"
    assert eventually(lambda: told.exists() and told.read_text() == "/run/notify/notify.sock\n")


def test_without_a_user_namespace_it_says_what_helps(user: User, name: str) -> None:
    spec = user.bundle.spec
    spec["linux"]["namespaces"] = [{"type": "mount"}]
    del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"], spec["hostname"]
    user.bundle.write(spec)
    assert "`migrator spec --rootless`" in user.run("run", name).stderr


def test_limits_take_cgroups(user: User, name: str) -> None:
    user.program("true")
    user.bundle.update(linux={"resources": {"pids": {"limit": 10}}})
    assert "linux.resources.pids cannot be set" in user.run("run", name).stderr
    user.bundle.update(linux={"resources": {}, "cgroupsPath": "/mig-test-nobodys/x"})
    told = user.run("run", name).stderr
    assert told.endswith("unable to apply cgroup configuration: permission denied\n")


DELEGATED = """
import os, sys
from pathlib import Path
ours, name = Path(sys.argv[1]), sys.argv[2]
(ours / "own/cgroup.procs").write_text(str(os.getpid()))
os.setgid(65534)
os.setuid(65534)
from runtime.rootless import cgroups_for
from runtime.spec.model import Process, Root, Spec
from runtime.state import State
spec = Spec("1.2.0", Root("rootfs"), Process(("sh",), "/"))
denied = {"": str(ours.parent / "nobody may" / name)}
state = State(name, "1.2.0", Path("/"), Path("/"), {}, "", cgroup_paths=denied)
state, cgroup = cgroups_for(spec, state, rootless=True)
cgroup.join(os.getpid())
print(state.cgroup_paths[""], cgroup.processes() == [os.getpid()])
(ours / "own/cgroup.procs").write_text(str(os.getpid()))
cgroup.destroy()
"""


def test_cgroups_that_are_delegated_to_the_user_are_used(user: User, name: str) -> None:
    root = detect().v2
    assert root is not None, "a kernel of today has it mounted somewhere"
    ours = root / name
    (ours / "own").mkdir(parents=True)
    try:
        for path in (ours, ours / "own"):
            for each in (path, path / "cgroup.procs"):
                os.chown(each, NOBODY, NOBODY)
        program = [sys.executable, "-c", DELEGATED, ours, name]
        said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        assert said == f"{ours}/migrator-{name} True\n"
    finally:
        (ours / "own").rmdir()
        ours.rmdir()


def test_what_takes_a_cgroup_names_it(user: User, name: str) -> None:
    user.program("exec sleep 60")
    assert not user.start(name)
    for command in (["pause", name], ["ps", name]):
        assert "the container has none" in user.run(*command).stderr
    counted = json.loads(user.run("events", "--stats", name).stdout)["data"]
    assert counted["pids"] == {}
    assert user.run("kill", "--all", name, "KILL").returncode == 0
    assert eventually(lambda: "stopped" in user.run("state", name).stdout)
    assert user.run("kill", "--all", name, "KILL").returncode == 0
    assert "not running" in user.run("kill", name, "KILL").stderr


def test_pids_that_are_shared_without_cgroups_are_warned_of(user: User, name: str) -> None:
    spec = user.bundle.spec
    kept = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
    proc = {"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]}
    mounts = [proc if each["type"] == "proc" else each for each in spec["mounts"]]
    user.bundle.update(linux={"namespaces": kept}, mounts=mounts)
    user.program("exec sleep 60")
    assert "strongly discouraged" in user.start(name)
    assert user.run("kill", name, "KILL").returncode == 0


def test_other_ids_take_the_host_to_lend_some(user: User, name: str) -> None:
    user.program("true", user={"uid": 1, "gid": 0})
    assert "is not mapped in the user namespace" in user.run("run", name).stderr
    user.program("true", user={"uid": 0, "gid": 0, "additionalGids": [1]})
    assert "additionalGids cannot be set" in user.run("run", name).stderr


@pytest.mark.needs_uidmap
def test_lent_ids_are_mapped(user: User, name: str) -> None:
    files = {}
    for kind, first in (("subuid", LENT), ("subgid", LENT_GROUPS)):
        files[kind] = user.bundle.path / kind
        files[kind].write_text(f"nobody:{first}:{SIZE}\n")
    mounts = " && ".join(f"mount --bind {path} /etc/{kind}" for kind, path in files.items())
    user.prefix = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *user.prefix]
    ids = {"containerID": 1, "size": SIZE}
    linux = user.bundle.spec["linux"]
    user.bundle.update(
        linux={
            "uidMappings": [*linux["uidMappings"], ids | {"hostID": LENT}],
            "gidMappings": [*linux["gidMappings"], ids | {"hostID": LENT_GROUPS}],
        }
    )
    (user.bundle.rootfs / "tmp").chmod(0o777)
    user.program("id; touch /tmp/x", user={"uid": 7, "gid": 8, "additionalGids": [9]})
    done = user.run("run", name)
    assert done.stdout == "uid=7 gid=8 groups=9\n", done.stderr
    status = (user.bundle.rootfs / "tmp/x").stat()
    assert (status.st_uid, status.st_gid) == (LENT + 6, LENT_GROUPS + 7)
    user.bundle.update(
        linux={"uidMappings": [*linux["uidMappings"], ids | {"hostID": LENT + SIZE}]}
    )
    assert "/etc/subuid" in user.run("run", name).stderr
