"""Filters that somebody outside is asked about: the agent at linux.seccomp.listenerPath."""

import errno
from collections.abc import Callable

import pytest

from runtime import CheckpointFailed, SetupFailed, Status
from runtime.checkpoint.incremental import pre_dump
from runtime.checkpoint.options import CheckpointOptions
from runtime.seccomp.library import number_of
from tests.containers import Box
from tests.migratory import Migratory
from tests.seccomp_agent import Agent

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_libseccomp]

MKDIR = ("mkdir", "mkdirat")


@pytest.fixture
def agent(box: Box) -> Callable[..., Agent]:
    """Makes an agent, and has the container ask it."""

    def make(*names: str, **answers: int) -> Agent:
        path = box.bundle.path / "agent.sock"
        rules = [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}] if names else []
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW" if names else "SCMP_ACT_NOTIFY",
            "syscalls": rules,
            "listenerPath": str(path),
            "listenerMetadata": "for the agent",
        }
        box.update(linux={"seccomp": profile})
        return Agent(path, answers)

    return make


@pytest.mark.usefixtures("traceless")
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_agent_answers_for_the_container(
    box: Box, agent: Callable[..., Agent], no_new_privileges: bool
) -> None:
    with agent(*MKDIR, mkdir=errno.EDQUOT, mkdirat=errno.EDQUOT) as answering:
        outcome = box.shell("mkdir /tmp/x || touch /tmp/y", noNewPrivileges=no_new_privileges)
    assert outcome.status == 0
    assert "uota" in outcome.err
    assert (box.bundle.rootfs / "tmp/y").exists()
    assert len(answering.asked) == 1


def test_the_agent_is_told_whom_it_answers_for(box: Box, agent: Callable[..., Agent]) -> None:
    box.update(annotations={"org.example": "x"})
    with agent(*MKDIR) as answering:
        container = box.start()
        box.exec(container, "mkdir /tmp/x; sleep 0.01")
        container.delete(force=True)
    assert (box.bundle.rootfs / "tmp/x").is_dir()
    first, second = answering.states
    assert first == {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": container.state.init_pid,
        "metadata": "for the agent",
        "state": {
            "ociVersion": "1.2.0",
            "id": box.id,
            "status": "created",
            "pid": container.state.init_pid,
            "bundle": str(box.bundle.path),
            "annotations": {"org.example": "x"},
        },
    }
    assert second["pid"] != first["pid"]
    assert second["state"] == {**first["state"], "status": "running"}


def test_every_call_can_be_asked_about(box: Box, agent: Callable[..., Agent]) -> None:
    with agent() as answering:
        assert box.shell("echo hello").out == "hello\n"
    # what init itself does under its filter, and nothing before it
    assert answering.asked[0] == number_of("read")
    assert number_of("execve") in answering.asked[:4]
    assert number_of("write") in answering.asked


def test_flags_of_listeners_are_taken(box: Box, agent: Callable[..., Agent]) -> None:
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "WAIT_KILLABLE_RECV")]
    with agent(*MKDIR, mkdir=errno.EDQUOT, mkdirat=errno.EDQUOT):
        box.update(linux={"seccomp": {"flags": flags}})
        assert "uota" in box.shell("mkdir /tmp/x").err


@pytest.mark.usefixtures("traceless")
def test_without_an_agent_nothing_starts_until_there_is_one(
    box: Box, agent: Callable[..., Agent]
) -> None:
    waiting = agent(*MKDIR)
    container = box.create()
    why = r"failed to connect with seccomp agent at .*/agent.sock: .*no such file"
    with pytest.raises(SetupFailed, match=why):
        container.start()
    assert container.status() is Status.CREATED
    with waiting:
        container.start()
        assert container.status() is Status.RUNNING
    with pytest.raises(SetupFailed, match=why):
        box.exec(container, "true")
    container.delete(force=True)


@pytest.mark.usefixtures("traceless")
def test_a_filter_that_cannot_be_installed_stops_the_container(
    box: Box, agent: Callable[..., Agent]
) -> None:
    # room for the standard descriptors only
    limits = [{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3}]
    with agent(*MKDIR):
        box.program("sleep", "inf", rlimits=limits)
        container = box.create()
        with pytest.raises(SetupFailed, match=r"installing the seccomp filter: too many open"):
            container.start()
        assert container.status() is Status.STOPPED
        container.delete()


def test_a_container_with_a_listener_is_refused_a_checkpoint(
    migratory: Migratory, agent: Callable[..., Agent]
) -> None:
    why = r"linux.seccomp: .*SCMP_ACT_NOTIFY"
    with agent(*MKDIR):
        container = migratory.start().container
        with pytest.raises(CheckpointFailed, match=why):
            migratory.checkpoint()
        with pytest.raises(CheckpointFailed, match=why):
            pre_dump(container, CheckpointOptions(image_path=migratory.images), None)
        assert container.status() is Status.RUNNING
        assert not migratory.images.exists()
        container.delete(force=True)
