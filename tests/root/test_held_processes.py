"""A process that the caller holds (Container.spawn), and descriptors of its that go along."""

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from runtime import (
    IO,
    CheckpointOptions,
    Container,
    ContainerProcess,
    Process,
    SetupFailed,
    Status,
    Terminal,
)
from runtime.pidfd import await_end
from runtime.process.channel import FORKED
from runtime.process.parent import Launched
from tests.containers import Box, Traces, with_descriptors
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.usefixtures("traceless"),
]


@pytest.fixture
def running(box: Box) -> Iterator[Container]:
    container = box.start()
    yield container
    container.delete(force=True)


def shell(container: Container, script: str, **changes: Any) -> Process:
    return container.spec.process._replace(args=("sh", "-c", script), **changes)


def test_it_talks_through_pipes_until_its_input_ends(running: Container) -> None:
    with running.spawn(shell(running, "cat; echo end >&2; exit 3"), io=IO()) as process:
        assert process.io is not None
        process.io.stdin.write(b"heard")
        process.close_stdin()
        assert process.wait(30) == 3
        assert (process.io.stdout.read(), process.io.stderr.read()) == (b"heard", b"end\n")
        assert process.wait() == process.exit_status == 3


def test_it_is_signalled_and_says_which_signal_has_ended_it(running: Container) -> None:
    with running.spawn(shell(running, "exec sleep inf")) as process:
        with pytest.raises(TimeoutError, match="still runs"):
            process.wait(0)
        assert process.signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert not process.signal(signal.SIGTERM)


def test_its_terminal_has_the_size_that_it_is_given(running: Container) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    with running.spawn(shell(running, script, terminal=True), terminal=Terminal()) as process:
        assert process.terminal is not None
        master = process.terminal.master_fd
        assert master is not None
        assert b"ready" in os.read(master, 100)
        process.resize(33, 44)
        assert b"33 44" in os.read(master, 100)
        assert process.wait(30) == 0


def test_without_a_terminal_there_is_nothing_to_resize(running: Container) -> None:
    with running.spawn(shell(running, "true")) as process:
        with pytest.raises(SetupFailed, match="resizing the terminal"):
            process.resize(1, 1)
        assert process.wait() == 0


def test_what_cannot_run_leaves_nothing_to_wait_for(running: Container) -> None:
    with IO() as io, pytest.raises(SetupFailed, match="no-such-program"):
        running.spawn(running.spec.process._replace(args=("no-such-program",)), io=io)


def test_init_is_held_too_by_who_did_not_start_it(box: Box, running: Container) -> None:
    loaded = Container.load(box.root, running.id)
    with loaded.init_process() as init:
        assert init.pid == running.state.init_pid
        assert init.signal(signal.SIGKILL)
        assert init.wait(30) == 128 + signal.SIGKILL  # this process is the one that made it


@pytest.mark.parametrize("order", [(3, 4, 5), (5, 3, 4), (4, 4, 3), (5, 4, 9)])
def test_descriptors_are_given_along_in_the_order_of_the_list(
    box: Box, order: tuple[int, ...]
) -> None:
    """Whatever numbers they have here: those of ours that stand in their way are moved."""
    box.program("sh", "-c", "cat <&3; cat <&4; cat <&5; echo; ls /proc/$$/fd; true")
    with ExitStack() as stack:
        files = [box.bundle.path / f"{number}" for number in range(3, 10)]
        for file in files:
            file.write_text(file.name)
        fds = [stack.enter_context(file.open()).fileno() for file in files]
        outcome = with_descriptors(fds, lambda: box.run(extra_fds=order))
    said, *left = outcome.out.split()
    assert said == "".join(map(str, dict.fromkeys(order)))
    assert left == ["0", "1", "2", "3", "4", "5"]


def test_a_further_process_gets_descriptors_too(box: Box, running: Container) -> None:
    reading_fd, writing_fd = os.pipe()
    try:
        with running.spawn(shell(running, "echo said >&4"), extra_fds=(0, writing_fd)) as process:
            assert process.wait(30) == 0
        assert os.read(reading_fd, 10) == b"said\n"
    finally:
        os.close(reading_fd)
        os.close(writing_fd)


def test_a_descriptor_that_is_not_open_is_named_before_anything_is_made(box: Box) -> None:
    with pytest.raises(SetupFailed, match="descriptor 999 is not open"):
        box.create(extra_fds=(999,))


ORPHANED = """
import signal, sys
from pathlib import Path
from runtime import Container
container = Container.create(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]),
                             parent_death_signal=signal.SIGKILL)
container.start()
"""


def test_it_ends_with_who_has_made_it_if_that_is_wanted(box: Box) -> None:
    """It would run for ever else: test_a_container_outlives_the_process_that_made_it."""
    box.made.append(box.id)
    argv = [sys.executable, "-c", ORPHANED, str(box.root), box.id, str(box.bundle.path)]
    subprocess.run(argv, check=True, timeout=60)
    container = Container.load(box.root, box.id)
    assert eventually(lambda: container.status() is Status.STOPPED)
    container.delete()


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
from runtime import Container, ContainerError
container = Container.load(Path(sys.argv[1]), sys.argv[2])
process = container.spec.process._replace(args=("sleep", "inf"))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in (most, *range(4, 40, 2)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    try:
        held = container.spawn(process)
        held.signal(signal.SIGKILL)
        held.wait()
    except ContainerError as exc:
        assert "too many open files" in str(exc), exc
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(limit, *os.listdir("/proc/self/fd"))
"""


def test_for_want_of_descriptors_none_is_started_and_none_is_lost(
    box: Box, running: Container
) -> None:
    argv = [sys.executable, "-c", LIMITED, str(box.root), box.id]
    said = subprocess.run(argv, check=True, timeout=120, capture_output=True, text=True).stdout
    assert len({tuple(line.split()[1:]) for line in said.splitlines()}) == 1
    assert running.processes() == [running.state.init_pid]


@pytest.mark.parametrize("asked", ["pidfd_open", "dup"])
def test_a_process_that_cannot_be_held_is_not_there(
    running: Container, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    call = getattr(os, asked)

    def spawned(allowed: int) -> bool:
        """Whether it was, when the kernel refuses what comes after so many calls."""
        refused = chain(range(allowed), repeat(None))

        def ask(*args: Any) -> Any:
            if next(refused) is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return call(*args)

        with monkeypatch.context() as kernel:
            kernel.setattr(os, asked, ask)
            try:
                process = running.spawn(shell(running, "exec sleep inf"))
            except SetupFailed:
                return False
        assert process.signal(signal.SIGKILL)
        return process.wait() == 137

    before = Traces.now(running.root)
    answers = [spawned(allowed) for allowed in range(6)]
    assert set(answers) == {False, True}
    assert Traces.now(running.root) == before
    assert running.processes() == [running.state.init_pid]


def started_and_ended(container: Container) -> ContainerProcess:
    """A further process that nobody has waited for."""
    process = container.spawn(shell(container, "exit 3"))
    assert await_end(process.fileno(), 30)
    return process


def test_delete_does_not_wait_for_who_has_ended_and_was_not_waited_for(running: Container) -> None:
    """In its pid namespace init ends after the last zombie, which no cgroup lists."""
    with started_and_ended(running) as process:
        running.delete(force=True)
        assert process.wait() == 3


@pytest.mark.needs_criu
def test_a_checkpoint_does_not_wait_for_who_has_ended_and_was_not_waited_for(
    running: Container, room: Path
) -> None:
    with started_and_ended(running):
        running.checkpoint(CheckpointOptions(image_path=room / "images"))


@pytest.fixture
def interrupt(
    box: Box, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """One comes when something is there, and we have not noted it yet."""
    receive = Launched.receive
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
        def carry_out(*args: Any, **how: Any) -> Any:
            done = call(*args, **how)
            signal.raise_signal(signal.SIGALRM)
            return done

        return carry_out

    def interrupted_receive(launched: Launched, expected: str) -> list[str]:
        if expected == FORKED:
            assert select.select([launched.channel.fd], [], [], 30)[0]
            raise KeyboardInterrupt
        return receive(launched, expected)

    if request.param == "directory":
        monkeypatch.setattr(Path, "mkdir", interrupted(Path.mkdir))
    elif request.param == "interpreter":
        monkeypatch.setattr(os, "posix_spawn", interrupted(os.posix_spawn))
    else:
        monkeypatch.setattr(Launched, "receive", interrupted_receive)
    yield
    signal.signal(signal.SIGALRM, former)


@pytest.mark.parametrize("interrupt", ["directory", "interpreter", "process"], indirect=True)
@pytest.mark.usefixtures("interrupt")
def test_an_interrupt_leaves_nothing_of_a_container_that_is_being_made(box: Box) -> None:
    with pytest.raises(KeyboardInterrupt):
        box.create()


@pytest.mark.parametrize("interrupt", ["interpreter", "process"], indirect=True)
def test_an_interrupt_leaves_no_process_that_is_being_started(
    running: Container, interrupt: None
) -> None:
    before = Traces.now(running.root)
    with pytest.raises(KeyboardInterrupt):
        running.spawn(running.spec.process)
    assert Traces.now(running.root) == before
