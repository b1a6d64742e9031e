"""Hooks for real: what they get, what their failures say, and that nothing of them runs on."""

import json
import os
import time
from pathlib import Path

import pytest

from runtime import hook_points, hooks
from runtime.errors import HookFailed
from runtime.hook_points import HookName
from runtime.spec.model import Hook

STATE = {"ociVersion": "1.2.0", "id": "c1", "status": "created", "pid": 7, "bundle": "/b"}


def sh(script: str, *env: str, timeout: int | None = None) -> Hook:
    return Hook("/bin/sh", ("hook", "-c", script), env, timeout)


def failure(*given: Hook) -> str:
    with pytest.raises(HookFailed) as caught:
        hooks.run("createRuntime", given, STATE)
    return str(caught.value)


def test_a_hook_gets_the_state_on_stdin(tmp_path: Path) -> None:
    hooks.run("prestart", [sh(f"cat >{tmp_path}/state")], STATE)
    assert json.loads((tmp_path / "state").read_text()) == STATE


def test_a_large_state_arrives_whole(tmp_path: Path) -> None:
    large = STATE | {"annotations": {"a": 1_000_000 * "x"}}
    hooks.run("prestart", [sh(f"cat >{tmp_path}/state")], large)
    assert json.loads((tmp_path / "state").read_text()) == large


def test_a_hook_may_leave_its_stdin_unread() -> None:
    hooks.run("prestart", [Hook("/bin/true")], STATE | {"annotations": {"a": 1_000_000 * "x"}})


def test_the_environment_is_exactly_the_hook_s(tmp_path: Path) -> None:
    path = tmp_path / "env"
    script = f"tr '\\0' '\\n' </proc/$$/environ >{path}"
    hooks.run("prestart", [sh(script, "A=1", "B=x=y", "PATH=/bin:/usr/bin")], STATE)
    assert path.read_text().split() == ["A=1", "B=x=y", "PATH=/bin:/usr/bin"]


@pytest.mark.parametrize(("given", "seen"), [({"ONE": "two"}, "two"), (None, "ours")])
def test_a_hook_without_environment_gets_the_caller_s_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str] | None, seen: str
) -> None:
    monkeypatch.setenv("ONE", "ours")
    hooks.run("startContainer", [sh(f"echo $ONE >{tmp_path}/one")], STATE, env=given)
    assert (tmp_path / "one").read_text() == f"{seen}\n"


def test_the_first_argument_is_the_hook_s_name_for_itself(tmp_path: Path) -> None:
    hooks.run("prestart", [sh(f"echo $0 >{tmp_path}/name")], STATE)
    assert (tmp_path / "name").read_text() == "hook\n"


def test_hooks_are_run_in_order_until_one_fails(tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = failure(sh(f"echo 1 >>{log}"), sh("exit 3"), sh(f"echo 3 >>{log}"))
    assert told == "error running createRuntime hook #1: /bin/sh: exit status 3"
    assert log.read_text() == "1\n"


def test_what_a_failing_hook_prints_is_told() -> None:
    told = failure(sh("echo on stdout; echo on stderr >&2; exit 1"))
    assert told.endswith("exit status 1: on stdout; on stderr")


def test_only_the_end_of_what_it_prints_is_told() -> None:
    told = failure(sh("i=0; while [ $i -lt 9999 ]; do echo line $i; i=$((i+1)); done; exit 1"))
    assert told.endswith("line 9998")
    assert len(told) < 2000


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (Hook("/nonexistent"), "/nonexistent: cannot be run: No such file or directory"),
        (Hook("/etc/passwd"), "/etc/passwd: cannot be run: Permission denied"),
        (sh("kill -TERM $$"), "/bin/sh: killed by signal 15: terminated"),
    ],
)
def test_a_hook_that_does_not_end_by_itself_is_told(hook: Hook, why: str) -> None:
    assert failure(hook) == f"error running createRuntime hook #0: {why}"


def test_a_hook_over_its_time_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    told = failure(sh(f"sleep 600 & echo $! $$ >{pids}; wait", timeout=1))
    assert told.endswith("killed after its timeout of 1 s")
    assert 1 <= time.monotonic() - started < 5
    for pid in map(int, pids.read_text().split()):
        stat = Path(f"/proc/{pid}/stat")
        deadline = time.monotonic() + 5
        while stat.exists() and ") Z" not in stat.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_daemon_that_a_hook_leaves_behind_does_not_hold_us_up(tmp_path: Path) -> None:
    started = time.monotonic()
    hooks.run("prestart", [sh(f"sleep 20 & echo $! >{tmp_path}/pid", timeout=10)], STATE)
    assert time.monotonic() - started < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_signals_that_python_ignores_are_not_ignored_in_a_hook() -> None:
    assert "killed by signal 13" in failure(sh("kill -PIPE $$; true"))


def test_run_all_goes_on_after_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hook_points.run_all(HookName.POSTSTOP, [sh("exit 1"), sh(f"echo >{tmp_path}/second")], STATE)
    assert (tmp_path / "second").exists()
    assert "error running poststop hook #0: /bin/sh: exit status 1" in caplog.text


def test_command_and_status_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Only with --debug: of a JSON log Podman understands one entry, which is to be the error."""
    caplog.set_level("DEBUG", "runtime")
    hooks.run("prestart", [Hook("/bin/true", ("true", "x"))], STATE)
    (record,) = caplog.records
    assert record.getMessage().startswith("prestart hook ['true', 'x'] ended with 0 after")
    assert record.levelname == "DEBUG"
