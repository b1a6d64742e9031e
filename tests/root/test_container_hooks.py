"""When a container's hooks are run, where, with which state, and what a failing one means."""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime import Container, HookFailed, HookName, Status
from tests.containers import Box, Traces

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

BEFORE_START = ("prestart", "createRuntime", "createContainer")
PATH = "PATH=/bin:/usr/bin"
ALL = (*BEFORE_START, "startContainer", "poststart", "poststop")


class Notes:
    """A directory, mounted into the container at the same path, where hooks write what they see."""

    def __init__(self, box: Box) -> None:
        self.path = box.bundle.path / "notes"
        self.path.mkdir()
        bound = {
            "destination": str(self.path),
            "type": "bind",
            "source": str(self.path),
            "options": ["rbind"],
        }
        box.update(mounts=[*box.bundle.spec["mounts"], bound])

    def hook(self, name: str, script: str = "") -> dict[str, Any]:
        write = (
            f"cd {self.path}; echo {name} >> order; cat > {name}.state; "
            f"readlink /proc/self/ns/mnt > {name}.mnt; "
            f"ls -d /bin/busybox /home > {name}.root 2>&1; true;"
        )
        return {
            "path": "/bin/sh",
            "args": ["sh", "-c", write + script],
            "env": ["PATH=/bin:/usr/bin"],
        }

    def order(self) -> list[str]:
        return (self.path / "order").read_text().split()

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.path / f"{name}.state").read_text())
        return state

    def text(self, name: str) -> str:
        return (self.path / name).read_text()


@pytest.fixture
def notes(box: Box) -> Notes:
    return Notes(box)


def test_each_hook_is_run_at_its_moment(box: Box, notes: Notes) -> None:
    box.update(hooks={name: [notes.hook(name)] for name in ALL})
    container = box.create()
    assert notes.order() == list(BEFORE_START)
    container.start()
    assert notes.order() == [*BEFORE_START, "startContainer", "poststart"]
    container.signal(signal.SIGKILL)
    container.wait()
    assert "poststop" not in notes.order()
    container.delete()
    assert notes.order() == list(ALL)


def test_each_hook_gets_the_state_as_it_then_is(box: Box, notes: Notes) -> None:
    box.update(hooks={name: [notes.hook(name)] for name in ALL}, annotations={"a": "b"})
    container = box.start()
    pid = container.state.init_pid
    container.delete(force=True)
    seen = {name: (notes.state(name)["status"], notes.state(name)["pid"]) for name in ALL}
    assert seen == {
        "prestart": ("creating", pid),
        "createRuntime": ("creating", pid),
        # As its own namespace counts, where it is the first.
        "createContainer": ("creating", 1),
        "startContainer": ("created", 1),
        "poststart": ("running", pid),
        "poststop": ("stopped", 0),
    }
    assert notes.state("prestart")["annotations"] == {"a": "b"}
    assert notes.state("poststop")["bundle"] == str(box.bundle.path)


def test_each_hook_is_run_in_its_namespaces(box: Box, notes: Notes) -> None:
    box.update(hooks={name: [notes.hook(name)] for name in ALL})
    container = box.start()
    inside = os.readlink(f"/proc/{container.state.init_pid}/ns/mnt")
    container.delete(force=True)
    host = os.readlink("/proc/self/ns/mnt")
    assert {name: notes.text(f"{name}.mnt").strip() == inside for name in ALL} == {
        "prestart": False,
        "createRuntime": False,
        "createContainer": True,
        "startContainer": True,
        "poststart": False,
        "poststop": False,
    }
    assert notes.text("prestart.mnt").strip() == host
    # createContainer runs before pivot_root, startContainer after.
    assert "/home\n" in notes.text("createContainer.root")
    assert "/home\n" not in notes.text("startContainer.root").replace("/home:", "")


def test_a_hook_may_prepare_the_rootfs_before_it_is_closed(box: Box, notes: Notes) -> None:
    box.update(
        root={"path": "rootfs", "readonly": True},
        hooks={"createContainer": [notes.hook("createContainer", "cd $OLDPWD; mkdir made")]},
    )
    assert box.shell("ls -d /made").out == "/made\n"


@pytest.mark.parametrize("name", BEFORE_START)
def test_a_failing_hook_undoes_the_create_and_poststop_is_run(
    box: Box, notes: Notes, name: str
) -> None:
    hooks = {
        name: [notes.hook(name, "echo broken >&2; exit 3")],
        "poststop": [notes.hook("poststop")],
    }
    box.update(hooks=hooks)
    before = Traces.now(box.root)
    with pytest.raises(HookFailed, match=f"{name} hook #0: /bin/sh: exit status 3: broken"):
        box.create()
    assert notes.order() == [name, "poststop"]
    assert Traces.now(box.root) == before


@pytest.mark.parametrize("name", ["startContainer", "poststart"])
def test_a_hook_that_fails_at_start_stops_the_container(box: Box, notes: Notes, name: str) -> None:
    hooks = {name: [notes.hook(name, "exit 3")], "poststop": [notes.hook("poststop")]}
    box.update(hooks=hooks)
    container = box.create()
    with pytest.raises(HookFailed, match=f"{name} hook #0: /bin/sh: exit status 3"):
        container.start()
    assert container.status() is Status.STOPPED
    container.delete()
    assert notes.order() == [name, "poststop"]


def test_a_failing_poststop_hook_is_only_noted(
    box: Box, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    box.update(hooks={"poststop": [notes.hook("first", "exit 3"), notes.hook("second")]})
    box.create().delete()
    assert notes.order() == ["first", "second"]
    assert "poststop hook #0" in caplog.text


def test_hooks_inside_see_no_descriptor_of_ours(box: Box, notes: Notes) -> None:
    box.update(
        hooks={
            name: [notes.hook(name, f"ls /proc/self/fd > {notes.path}/{name}.fds; true")]
            for name in ("createContainer", "startContainer")
        }
    )
    box.start()
    for name in ("createContainer", "startContainer"):
        assert notes.text(f"{name}.fds").split() == ["0", "1", "2", "3"], name  # 3 is ls's own


def test_a_poststart_hook_may_use_the_container(box: Box, notes: Notes) -> None:
    script = (
        "import sys; from pathlib import Path; from runtime import Container; "
        f"Container.load(Path('{box.root}'), '{box.id}').pause()"
    )
    hook = {"path": sys.executable, "args": [sys.executable, "-c", script]}
    box.update(hooks={"poststart": [hook]})
    assert box.start().status() is Status.PAUSED


def test_a_container_with_a_hook_that_hangs_can_be_asked_for_its_status(
    box: Box, notes: Notes
) -> None:
    script = f"[ -e {box.root}/{box.id}/state.json ] && echo yes > {notes.path}/there"
    box.update(hooks={"createRuntime": [notes.hook("createRuntime", script)]})
    container = box.create()
    assert (notes.path / "there").exists()
    assert Container.load(box.root, box.id).state == container.state
    assert Path(container.dir).is_dir()


def test_functions_of_ours_are_hooks_too(box: Box) -> None:
    seen: list[tuple[str, str]] = []

    def note(kind: HookName) -> Callable[[Mapping[str, Any]], None]:
        return lambda state: seen.append((kind, state["status"]))

    outside = (HookName.PRESTART, HookName.CREATE_RUNTIME, HookName.POSTSTART, HookName.POSTSTOP)
    container = box.start(hooks={kind: [note(kind)] for kind in outside})
    container.signal(signal.SIGKILL)
    container.wait()
    container.destroy()
    assert seen == [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ]


def test_what_a_function_of_ours_raises_is_the_failure_of_the_hook(box: Box) -> None:
    def refuse(state: Mapping[str, Any]) -> None:
        raise ValueError("not today")

    before = Traces.now(box.root)
    with pytest.raises(HookFailed, match=r"createRuntime hook #0: .*refuse: not today"):
        box.create(hooks={HookName.CREATE_RUNTIME: [refuse]})
    assert Traces.now(box.root) == before
    with pytest.raises(ValueError, match="startContainer hooks run in the container"):
        box.create(hooks={HookName.START_CONTAINER: [refuse]})
