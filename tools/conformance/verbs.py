"""Cases: verbs, one after the other, and what they answer. Each gives named observations."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes import Answer, Runtime

Observed = dict[str, Any]
Case = Callable[[Runtime], Observed]
CASES: dict[str, Case] = {}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def case(function: Case) -> Case:
    """Enter *function* among the cases, under its name."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


def until(runtime: Runtime, status: str, timeout_s: float = 5) -> str:
    """The container's status, *status* as soon as it is that."""
    deadline = time.monotonic() + timeout_s
    while (now := status_of(runtime)) != status and time.monotonic() < deadline:
        time.sleep(0.02)
    return now


def status_of(runtime: Runtime) -> str:
    """What `state` calls it; "none" where there is no such container."""
    answer = runtime("state", runtime.id)
    return str(answer.data["status"]) if answer.code == 0 else "none"


def _await_file(path: Path, timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def failed(answer: Answer) -> str:
    """How an error is told: exit code, and whether anything is said on standard error alone."""
    said = "told" if answer.err.strip() and not answer.out.strip() else "NOT TOLD"
    return f"{answer.code}, {said}"


def plain(runtime: Runtime, state: dict[str, Any]) -> dict[str, Any]:
    """A state without what differs from one container to another."""
    same = dict(state)
    same["pid"] = "a pid" if state.get("pid") else state.get("pid")
    for name in ("bundle", "rootfs"):
        if name in same:
            same[name] = str(same[name]).replace(str(runtime.bundle.path), "BUNDLE")
    if "created" in same:
        same["created"] = "a time" if _TIME.fullmatch(same["created"]) else same["created"]
    same["id"] = same["id"].replace(runtime.id, "ID")
    return {key: same[key] for key in sorted(same)}


def state(runtime: Runtime, when: str) -> Observed:
    """Each field of the state."""
    found = plain(runtime, runtime("state", runtime.id).data)
    return {f"state {when}: {name}": value for name, value in found.items()}


@case
def a_whole_life(runtime: Runtime) -> Observed:
    runtime.configure(annotations={"org.example": "x"})
    seen: Observed = {"create": runtime("create", runtime.id).code}
    seen |= state(runtime, "created")
    seen["start"] = runtime("start", runtime.id).code
    seen |= state(runtime, "running")
    seen["pause"] = runtime("pause", runtime.id).code
    seen["paused"] = until(runtime, "paused")
    seen["resume"] = runtime("resume", runtime.id).code
    seen["resumed"] = until(runtime, "running")
    seen["kill"] = runtime("kill", runtime.id, "KILL").code
    seen["killed"] = until(runtime, "stopped")
    seen |= state(runtime, "stopped")
    seen["delete"] = runtime("delete", runtime.id).code
    seen["deleted"] = failed(runtime("state", runtime.id))
    return seen


@case
def what_does_not_exist(runtime: Runtime) -> Observed:
    verbs = ("state", "start", "pause", "resume", "kill", "delete", "ps")
    seen: Observed = {verb: failed(runtime(verb, runtime.id)) for verb in verbs}
    seen["exec"] = failed(runtime("exec", runtime.id, "true"))
    seen["delete --force"] = runtime("delete", "--force", runtime.id).code
    return seen


@case
def what_the_status_forbids(runtime: Runtime) -> Observed:
    seen: Observed = {}
    runtime("create", runtime.id)
    seen["create again"] = failed(runtime("create", runtime.id))
    seen["resume created"] = failed(runtime("resume", runtime.id))
    runtime("start", runtime.id)
    seen["start again"] = failed(runtime("start", runtime.id))
    seen["resume running"] = failed(runtime("resume", runtime.id))
    seen["delete running"] = failed(runtime("delete", runtime.id))
    seen["still"] = status_of(runtime)
    runtime("pause", runtime.id)
    seen["pause again"] = failed(runtime("pause", runtime.id))
    seen["exec paused"] = failed(runtime("exec", runtime.id, "true"))
    runtime("resume", runtime.id)
    runtime("kill", runtime.id, "KILL")
    until(runtime, "stopped")
    for verb, *more in (("exec", "true"), ("pause",), ("start",), ("kill", "TERM")):
        seen[f"{verb} stopped"] = failed(runtime(verb, runtime.id, *more))
    seen["delete stopped"] = runtime("delete", runtime.id).code
    return seen


@case
def what_is_malformed(runtime: Runtime) -> Observed:
    seen: Observed = {}
    for bad in ("", "a/b", "..", "a b"):
        seen[f"id {bad!r}"] = failed(runtime("create", bad))
    seen["no such verb"] = runtime("no-such-verb").code != 0
    seen["no such option"] = failed(runtime("state", "--no-such-option", runtime.id))[0]
    seen["no id"] = runtime("state").code != 0
    config = runtime.bundle.path / "config.json"
    whole = config.read_text()
    config.write_text("{")
    seen["config is no JSON"] = failed(runtime("create", runtime.id))
    config.write_text("{}")
    seen["config is empty"] = failed(runtime("create", runtime.id))
    config.unlink()
    seen["no config"] = failed(runtime("create", runtime.id))
    config.write_text(whole)
    runtime.configure(root={"path": "none"})
    seen["no rootfs"] = failed(runtime("create", runtime.id))
    seen["left"] = runtime("list", "-q").out.split()
    return seen


@case
def exit_codes_of_run(runtime: Runtime) -> Observed:
    seen: Observed = {}
    for script in ("exit 0", "exit 7", "exit 255", "kill -TERM $$; exit 9"):
        runtime.configure(process={"args": ["sh", "-c", script]})
        seen[script] = runtime("run", runtime.id).code
    for args in (["no-such-program"], ["/no/such/program"], ["/etc/passwd"], ["/etc"]):
        runtime.configure(process={"args": args})
        seen[args[0]] = runtime("run", runtime.id).code != 0
    seen["left"] = runtime("list", "-q").out.split()
    return seen


@case
def exit_codes_of_exec(runtime: Runtime) -> Observed:
    runtime("run", "--detach", runtime.id)
    seen: Observed = {}
    for script in ("exit 0", "exit 7", "kill -KILL $$"):
        seen[script] = runtime("exec", runtime.id, "sh", "-c", script).code
    seen["no such program"] = runtime("exec", runtime.id, "no-such-program").code != 0
    options = ("--user", "1000:100", "--env", "A=b", "--cwd", "/tmp")
    script = "id -u; id -g; echo $A; pwd"
    seen["options"] = runtime("exec", *options, runtime.id, "sh", "-c", script).out
    file = runtime.bundle.path / "process.json"
    file.write_text('{"args": ["id", "-u"], "cwd": "/", "user": {"uid": 5, "gid": 6}}')
    seen["process.json"] = runtime("exec", "--process", str(file), runtime.id).out
    pid = runtime.bundle.path / "pid"
    detached = ("--detach", "--pid-file", str(pid), runtime.id, "sleep", "100")
    seen["detached"] = runtime("exec", *detached).code
    seen["pid file"] = pid.read_text().isdecimal()
    return seen


@case
def lists(runtime: Runtime) -> Observed:
    seen: Observed = {"none": runtime("list", "-q").out, "none as JSON": _none(runtime)}
    runtime("create", "--pid-file", str(runtime.bundle.path / "pid"), runtime.id)
    seen["pid file"] = (runtime.bundle.path / "pid").read_text().isdecimal()
    seen["header"] = runtime("list").out.splitlines()[0].split()
    (entry,) = runtime("list", "--format", "json").data
    seen |= {f"entry: {name}": value for name, value in plain(runtime, entry).items()}
    seen["ids"] = runtime("list", "--quiet").out.split() == [runtime.id]
    seen["no such format"] = failed(runtime("list", "--format", "none"))
    return seen


def _none(runtime: Runtime) -> Any:
    return runtime("list", "--format", "json").data


@case
def processes(runtime: Runtime) -> Observed:
    runtime.configure(process={"args": ["sh", "-c", "sleep 100 & sleep 100 & wait"]})
    runtime("run", "--detach", runtime.id)
    time.sleep(0.2)
    pids = runtime("ps", "--format", "json", runtime.id).data
    table = runtime("ps", runtime.id).out.splitlines()
    return {
        "count": len(pids),
        "are pids": all(isinstance(pid, int) for pid in pids),
        "header": table[0].split() if table else [],
        "rows": len(table) - 1,
    }


@case
def signals(runtime: Runtime) -> Observed:
    script = "trap 'exit 0' USR1; trap '' TERM; touch /ready; while :; do sleep 0.05; done"
    seen: Observed = {}
    for signal in ("USR1", "SIGUSR1", "10"):
        runtime.configure(process={"args": ["sh", "-c", script]})
        (runtime.bundle.rootfs / "ready").unlink(missing_ok=True)
        runtime("run", "--detach", runtime.id)
        _await_file(runtime.bundle.rootfs / "ready")
        seen[f"kill {signal}"] = runtime("kill", runtime.id, signal).code
        seen[f"after {signal}"] = until(runtime, "stopped")
        runtime("delete", runtime.id)
    runtime("run", "--detach", runtime.id)
    seen["no such signal"] = failed(runtime("kill", runtime.id, "NONE"))
    seen["deleted by force"] = runtime("delete", "--force", runtime.id).code
    return seen


@case
def hooks(runtime: Runtime) -> Observed:
    notes = runtime.bundle.path / "notes"
    notes.mkdir()
    script = f"cat > {notes}/$0; echo $0 >> {notes}/order; pwd > {notes}/$0.cwd"
    outside = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    made = {
        name: [{"path": "/bin/sh", "args": ["sh", "-c", script, name], "env": ["PATH=/bin"]}]
        for name in outside
    }
    runtime.configure(hooks=made)
    runtime("create", runtime.id)
    runtime("start", runtime.id)
    runtime("delete", "--force", runtime.id)
    seen: Observed = {"order": (notes / "order").read_text().split()}
    for name in outside:
        given = json.loads((notes / name).read_text())
        seen[f"{name} reads"] = sorted(given.keys() - {"annotations", "pid"})
        seen[f"{name}: status"] = given["status"]
    rootfs = str(runtime.bundle.rootfs)
    seen["cwd of createContainer"] = (notes / "createContainer.cwd").read_text().strip() == rootfs
    for name in ("prestart", "createContainer", "startContainer", "poststart"):
        runtime.configure(hooks={each: [] for each in made} | {name: [{"path": "/bin/false"}]})
        seen[f"{name} fails"] = failed(runtime("run", runtime.id))[:1] != "0"
        seen[f"left by {name}"] = runtime("list", "-q").out.split()
    return seen
