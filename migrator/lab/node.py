"""Start a node's init process, tell whether it lives, and build commands that run in the node."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from migrator.lab import cgroups, init
from migrator.lab.errors import StepFailed
from migrator.lab.layout import CLIENT, Node
from migrator.lab.record import ProcessIdentity

_PROJECT = Path(__file__).resolve().parents[2]
MOUNT_POINT_MADE = Path("/var/lib/migrator")
_OWN = {
    "/tmp": 0o1777,
    "/var/tmp": 0o1777,
    "/run": 0o755,
    "/srv": 0o755,
    str(MOUNT_POINT_MADE): 0o700,
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")


def environment(node: Node) -> dict[str, str]:
    """What every command and session in *node* finds: our commands, and a home of its own.

    Another criu than set-up's, named to us in $MIGRATOR_CRIU, is the hosts' too.
    """
    return {name: os.environ[name] for name in ("MIGRATOR_CRIU",) if name in os.environ} | {
        "PATH": f"{Path(sys.prefix) / 'bin'}:{_SYSTEM_PATH}",
        "HOME": str(node.directory / "home"),
    }


def start(node: Node, names: Mapping[str, str]) -> IO[bytes]:
    """Start *node*'s init, which goes on alone; the stream returned is for `wait_ready`.

    names: address -> name of every host, for the node's /etc/hosts.
    """
    cgroups.create(node.cgroup)
    if node.name == CLIENT:
        cgroups.allow_realtime(node.cgroup)
    _make_directories(node, names)
    python = shutil.which("python3", path=_SYSTEM_PATH) or sys.executable
    init_command = [python, "-I", "-S", init.__file__, str(node.directory / "node.json")]
    unshare = ["unshare", *_NAMESPACES, "--fork", "--propagation", "private", *init_command]
    joined = _join_then(cgroups.procs_files(node.cgroup), f"{shlex.join(unshare)} &")
    with (node.directory / "init.log").open("wb") as log:
        starter = subprocess.Popen(
            ["sh", "-ec", joined],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    starter.wait()
    assert starter.stdout is not None
    return starter.stdout


def wait_ready(node: Node, answers: IO[bytes]) -> None:
    """Wait until *node*'s init has set itself up, and make it enterable.

    Raises StepFailed with what the init said when it has died.
    """
    if answers.readline() != init.READY:
        said = (node.directory / "init.log").read_text().strip().replace("\n", "; ")
        raise StepFailed(f"start {node.name}", said or "its init ended without a word")
    cgroups.move_to_leaf(node.cgroup)
    _write_enter(node)


def init_pid(node: Node) -> int | None:
    """The process id of *node*'s init on this machine, None when it is not alive."""
    try:
        written = json.loads((node.directory / "init.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    identity = ProcessIdentity(**written)
    return identity.pid if identity.alive() else None


def command(node: Node, arguments: Sequence[str]) -> list[str]:
    """The argv that runs *arguments* in *node*, in its namespaces and in its cgroups."""
    return [str(node.directory / "enter"), *arguments]


def _join_then(files: Sequence[Path], then: str) -> str:
    """A line of sh(1): enter the cgroups with these cgroup.procs, then go on."""
    quoted = " ".join(shlex.quote(str(file)) for file in files)
    return f'for file in {quoted}; do echo 0 > "$file"; done; {then}'


def _make_directories(node: Node, names: Mapping[str, str]) -> None:
    """Everything the init needs, with the description of it in node.json."""
    own: dict[str, Path] = {}
    for path, mode in _OWN.items():
        own[path] = node.directory / path.strip("/").replace("/", "-")
        own[path].mkdir(parents=True)
        own[path].chmod(mode)
    MOUNT_POINT_MADE.mkdir(mode=0o700, exist_ok=True)
    own |= _own_files(node, names)
    description = {
        "name": node.name,
        "cgroup": node.cgroup,
        "leaf": cgroups.LEAF,
        "hierarchies": [str(h.mount_point) for h in cgroups.hierarchies()],
        "new_sys": str(node.directory / "sys"),
        "own": {path: str(source) for path, source in own.items()},
        "keep": sorted({str(_PROJECT), sys.prefix}),
        "identity": str(node.directory / "init.json"),
    }
    (node.directory / "sys").mkdir()
    (node.directory / "home").mkdir(mode=0o700)
    (node.directory / "node.json").write_text(json.dumps(description, indent=1))


def _own_files(node: Node, names: Mapping[str, str]) -> dict[str, Path]:
    """Its own /etc/hosts and host name; and an empty directory over the user's SSH files."""
    hosts = node.directory / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n::1 localhost\n"
        + "".join(f"{address} {name}\n" for address, name in names.items())
    )
    own = {"/etc/hosts": hosts}
    users_ssh = Path(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")
    if users_ssh.is_dir():
        own[str(users_ssh)] = node.directory / "dot-ssh"
        own[str(users_ssh)].mkdir(mode=0o700)
    return own


def _write_enter(node: Node) -> None:
    """A script, so that one can also enter by hand when nothing else works."""
    pid = str(init_pid(node))
    settings = [f"{name}={value}" for name, value in environment(node).items()]
    enter = ["nsenter", "--target", pid, *_NAMESPACES, "env", *settings]
    text = _join_then(cgroups.procs_files(node.cgroup, cgroups.LEAF), f"exec {shlex.join(enter)}")
    script = node.directory / "enter"
    script.write_text(
        f'#!/bin/sh -e\n# Run a command in {node.name} of lab {node.lab}.\n{text} "$@"\n'
    )
    script.chmod(0o700)
