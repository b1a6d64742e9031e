"""Many containers kept by one program, which is told what happens to them (runtime.Supervisor)."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from runtime import (
    IO,
    Change,
    CheckpointOptions,
    Container,
    ContainerError,
    ContainerProcess,
    Event,
    NoSuchProcess,
    NotRunning,
    Process,
    ProcessExists,
    RestoreOptions,
    Status,
    Stdio,
    StillRunning,
    Supervisor,
    Terminal,
)
from tests.containers import Box
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.usefixtures("traceless"),
]


@pytest.fixture
def supervisor(box: Box) -> Iterator[Supervisor]:
    with Supervisor(box.root) as supervisor:
        yield supervisor
    box.remove_all()


def changes(supervisor: Supervisor, last: Change) -> list[Event]:
    """The events up to *last*, which has to come."""
    found: list[Event] = []
    while not found or found[-1].change is not last:
        event = supervisor.wait(30)
        assert event is not None, found
        found.append(event)
    return found


def shell(supervisor: Supervisor, box: Box, script: str) -> Process:
    base = supervisor.container(box.id).spec.process
    return base._replace(args=("sh", "-c", script))


def start(supervisor: Supervisor, box: Box) -> None:
    supervisor.create(box.id, box.bundle.path)
    supervisor.start(box.id)
    changes(supervisor, Change.START)


def test_the_life_of_a_container_is_told_from_create_to_delete(
    box: Box, supervisor: Supervisor
) -> None:
    box.program("sh", "-c", "read line; echo $line; exit 7")
    with supervisor.create(box.id, box.bundle.path, io=IO()) as init:
        assert init.io is not None
        supervisor.start(box.id)
        init.io.stdin.write(b"heard\n")
        events = changes(supervisor, Change.EXIT)
        assert init.io.stdout.read() == b"heard\n"
        supervisor.delete(box.id)
        events += changes(supervisor, Change.DELETE)
    assert events == [
        Event(box.id, Change.CREATE, pid=init.pid),
        Event(box.id, Change.START, pid=init.pid),
        Event(box.id, Change.EXIT, pid=init.pid, exit_status=7),
        Event(box.id, Change.DELETE),
    ]


def test_further_processes_have_names_and_ends_of_their_own(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    with supervisor.exec(box.id, "cat", shell(supervisor, box, "cat; exit 4"), io=IO()) as cat:
        with pytest.raises(ProcessExists, match="cat already"):
            supervisor.exec(box.id, "cat", shell(supervisor, box, "true"))
        named = {each.name: each for each in supervisor.summary(box.id)}
        assert (named["init"].command, named["cat"].pid) == ("sleep", cat.pid)
        supervisor.process(box.id, "cat").close_stdin()
        *_, told = changes(supervisor, Change.EXIT_PROCESS)
        assert told == Event(box.id, Change.EXIT_PROCESS, "cat", cat.pid, 4)
    with pytest.raises(NoSuchProcess, match="no process cat"):
        supervisor.process(box.id, "cat")
    assert supervisor.container(box.id).status() is Status.RUNNING


def test_a_terminal_is_resized_by_the_name_of_its_process(box: Box, supervisor: Supervisor) -> None:
    start(supervisor, box)
    script = shell(supervisor, box, "read line; stty size")._replace(terminal=True)
    with supervisor.exec(box.id, "shell", script, terminal=Terminal()) as process:
        supervisor.process(box.id, "shell").resize(11, 22)
        assert process.terminal is not None
        assert process.terminal.master_fd is not None
        os.write(process.terminal.master_fd, b"\n")
        changes(supervisor, Change.EXIT_PROCESS)
        assert b"11 22" in os.read(process.terminal.master_fd, 100)


def test_it_is_made_anew_as_often_as_the_caller_wants(box: Box, supervisor: Supervisor) -> None:
    box.program("sh", "-c", "exit 9")
    ends = []
    supervisor.create(box.id, box.bundle.path)
    supervisor.start(box.id)
    for event in supervisor:
        if event.change is Change.EXIT:
            ends.append(event.exit_status)
            if len(ends) < 3:
                supervisor.restart(box.id)
            else:
                supervisor.delete(box.id)
    assert ends == [9, 9, 9]


def test_only_what_was_created_here_and_has_ended_is_made_anew(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    with pytest.raises(StillRunning):
        supervisor.restart(box.id)
    with Supervisor(box.root) as other:
        other.attach(box.id)
        with pytest.raises(NoSuchProcess):
            other.restart(box.id)


def test_pause_and_resume_are_told(box: Box, supervisor: Supervisor) -> None:
    start(supervisor, box)
    supervisor.pause(box.id)
    supervisor.resume(box.id)
    assert [event.change for event in changes(supervisor, Change.RESUME)] == ["pause", "resume"]


def test_it_is_not_deleted_while_it_runs_but_by_force(box: Box, supervisor: Supervisor) -> None:
    start(supervisor, box)
    with supervisor.exec(box.id, "more", shell(supervisor, box, "exec sleep inf")) as more:
        supervisor.pause(box.id)
        with pytest.raises(StillRunning):
            supervisor.delete(box.id)
        supervisor.delete(box.id, force=True)
        events = changes(supervisor, Change.DELETE)
    assert [event.change for event in events[-3:]] == ["exit-process", "exit", "delete"]
    assert [event.exit_status for event in events[-3:-1]] == [137, 137]
    assert events[-3].pid == more.pid
    assert supervisor.wait(0) is None


def test_the_oom_killer_is_told_of_and_the_exit_says_so(box: Box, supervisor: Supervisor) -> None:
    box.update(linux={"resources": {"memory": {"limit": 32 << 20, "swap": 32 << 20}}})
    box.program("sh", "-c", "exec tail /dev/zero")
    supervisor.create(box.id, box.bundle.path)
    supervisor.start(box.id)
    events = changes(supervisor, Change.EXIT)
    assert Event(box.id, Change.OOM) in events
    assert (events[-1].oom_killed, events[-1].exit_status) == (True, 128 + signal.SIGKILL)


def test_a_program_that_cannot_be_executed_is_an_error_and_an_exit(
    box: Box, supervisor: Supervisor
) -> None:
    broken = box.bundle.rootfs / "bin/broken"
    broken.write_text("neither a script nor a program")
    broken.chmod(0o755)
    box.program("broken")
    supervisor.create(box.id, box.bundle.path)
    with pytest.raises(ContainerError, match="broken"):
        supervisor.start(box.id)
    assert [each.change for each in changes(supervisor, Change.EXIT)] == ["create", "exit"]


def test_one_made_elsewhere_can_be_cared_for_and_is_left_running(
    box: Box, supervisor: Supervisor
) -> None:
    container = box.start()
    with Supervisor(box.root) as other:
        other.attach(box.id)
        assert changes(other, Change.RESTORE)[0].pid == container.state.init_pid
    assert container.status() is Status.RUNNING
    supervisor.attach(box.id)
    container.signal(signal.SIGKILL)
    assert changes(supervisor, Change.EXIT)[-1].process == "init"
    with pytest.raises(NotRunning):
        supervisor.attach(box.id)


@pytest.mark.needs_criu
def test_a_checkpoint_ends_it_and_a_restore_cares_for_it_again(
    box: Box, supervisor: Supervisor, room: Path
) -> None:
    start(supervisor, box)
    images = room / "images"
    supervisor.checkpoint(box.id, CheckpointOptions(image_path=images))
    told = changes(supervisor, Change.DELETE)
    assert [event.change for event in told] == ["checkpoint", "exit", "delete"]
    assert told[1].exit_status == 137
    supervisor.restore(box.id, box.bundle.path, RestoreOptions(image_path=images))
    assert changes(supervisor, Change.RESTORE)[0].pid
    supervisor.container(box.id).signal(signal.SIGTERM)
    supervisor.container(box.id).signal(signal.SIGKILL)
    assert changes(supervisor, Change.EXIT)[-1].exit_status == 137


def test_events_end_with_the_last_container(box: Box, supervisor: Supervisor) -> None:
    box.program("true")
    supervisor.create(box.id, box.bundle.path)
    supervisor.start(box.id)
    for event in supervisor:
        if event.change is Change.EXIT:
            supervisor.delete(event.container_id)
    assert supervisor.wait(0) is None


def test_a_loop_of_the_callers_own_is_woken(box: Box, supervisor: Supervisor) -> None:
    assert not select.select([supervisor], [], [], 0)[0]
    supervisor.create(box.id, box.bundle.path)
    assert select.select([supervisor], [], [], 30)[0] == [supervisor]
    assert supervisor.wait(0) is not None


def test_delete_does_not_wait_for_those_that_this_process_has_to_reap(box: Box) -> None:
    container = box.start()
    with container.spawn(container.spec.process._replace(args=("sleep", "inf"))) as process:
        assert eventually(lambda: len(container.processes()) == 2)
        container.delete(force=True)
        assert process.wait(0) == 137


def test_verbs_and_a_thread_that_waits_for_events_do_not_get_in_each_others_way(
    box: Box, supervisor: Supervisor
) -> None:
    for _ in range(10):
        start(supervisor, box)
        with ThreadPoolExecutor(1) as thread:
            told = thread.submit(list, supervisor)
            supervisor.exec(box.id, "sleep", shell(supervisor, box, "sleep 1000"))
            supervisor.delete(box.id, force=True)
            ends = [event[1:5] for event in told.result(30)][1:]
        assert [(change, name, status) for change, name, _, status in ends] == [
            (Change.EXIT_PROCESS, "sleep", 137),
            (Change.EXIT, "init", 137),
            (Change.DELETE, "init", None),
        ]


def test_one_that_cannot_be_made_anew_is_gone_and_one_cared_for_is_not_attached_to(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    with pytest.raises(ProcessExists):
        supervisor.attach(box.id)
    with pytest.raises(ProcessExists):
        supervisor.exec(box.id, "init", shell(supervisor, box, "true"))
    supervisor.process(box.id).signal(signal.SIGKILL)
    changes(supervisor, Change.EXIT)
    box.update(root={"path": "missing"})
    with pytest.raises(ContainerError):
        supervisor.restart(box.id)
    assert [event.change for event in supervisor] == [Change.DELETE]


def test_verbs_still_work_when_nobody_is_told_any_more(box: Box, supervisor: Supervisor) -> None:
    start(supervisor, box)
    supervisor.close()
    with os.fdopen(os.eventfd(0, os.EFD_NONBLOCK)) as has_its_number_now:
        supervisor.delete(box.id, force=True)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(has_its_number_now.fileno())


def test_one_removed_by_somebody_else_is_made_again(box: Box, supervisor: Supervisor) -> None:
    start(supervisor, box)
    Container.load(box.root, box.id).delete(force=True)
    supervisor.create(box.id, box.bundle.path)
    told = [event.change for event in changes(supervisor, Change.CREATE)]
    assert told == [Change.EXIT, Change.CREATE]
    assert not select.select([supervisor], [], [], 0)[0]


@pytest.mark.parametrize("let_go", [ContainerProcess.close, ContainerProcess.wait, bool])
def test_the_end_of_a_process_is_told_whatever_the_caller_does_with_his_hold_of_it(
    box: Box, supervisor: Supervisor, let_go: Callable[[ContainerProcess], object]
) -> None:
    start(supervisor, box)
    pids = {}
    for name in ("one", "two"):
        process = supervisor.exec(box.id, name, shell(supervisor, box, "sleep 0.2; exit 6"))
        pids[name] = process.pid
        let_go(process)
        del process
    ends = [changes(supervisor, Change.EXIT_PROCESS)[-1] for _ in pids]
    assert {(event.process, event.pid) for event in ends} == set(pids.items())
    assert [event.exit_status for event in ends] == [6, 6]


def test_a_process_that_the_caller_has_closed_is_still_known_by_its_name(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    supervisor.exec(box.id, "sleep", shell(supervisor, box, "exec sleep inf")).close()
    with supervisor.process(box.id, "sleep"):
        pass
    assert supervisor.process(box.id, "sleep").signal(signal.SIGTERM)
    assert changes(supervisor, Change.EXIT_PROCESS)[-1].exit_status == 128 + signal.SIGTERM


def test_all_who_wait_for_a_process_learn_how_it_has_ended(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    container, holds = supervisor.container(box.id), [supervisor.process(box.id) for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(container.wait) for _ in range(2)]
        waiting += [threads.submit(each.wait) for each in holds]
        assert supervisor.process(box.id).signal(signal.SIGTERM)
        assert supervisor.process(box.id).signal(signal.SIGKILL)
        assert [each.result(30) for each in waiting] == [137] * 5
    assert changes(supervisor, Change.EXIT)[-1].exit_status == 137


class KilledAtOnce(Container):
    """One whose process is killed as soon as it has been made."""

    waited_for = False

    @classmethod
    def create(cls, *args: Any, **how: Any) -> Self:
        made = super().create(*args, **how)
        os.kill(made.state.init_pid, signal.SIGKILL)
        if cls.waited_for:
            os.waitpid(made.state.init_pid, 0)
        else:
            os.waitid(os.P_PID, made.state.init_pid, os.WEXITED | os.WNOWAIT)
        return made


def test_one_that_is_killed_while_it_is_made_has_a_beginning_and_an_end(
    box: Box, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.supervisor.Container", KilledAtOnce)
    init = supervisor.create(box.id, box.bundle.path)
    assert changes(supervisor, Change.EXIT) == [
        Event(box.id, Change.CREATE, pid=init.pid),
        Event(box.id, Change.EXIT, pid=init.pid, exit_status=137),
    ]
    supervisor.delete(box.id)


def test_nothing_is_left_of_one_that_is_made_and_cannot_be_held(
    box: Box, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.supervisor.Container", KilledAtOnce)
    monkeypatch.setattr(KilledAtOnce, "waited_for", True)
    with pytest.raises(NotRunning):
        supervisor.create(box.id, box.bundle.path)
    assert not Container.list_all(box.root)
    assert list(supervisor) == []


def test_a_further_start_has_no_descriptors_of_the_first_but_files_and_those_it_is_given(
    box: Box, supervisor: Supervisor
) -> None:
    out = box.bundle.path / "out"
    box.program("sh", "-c", "test -e /proc/$$/fd/3; echo $?; cat")
    with IO() as io:
        streams = Stdio(io.stdio.stdin, out, None)
        supervisor.create(box.id, box.bundle.path, stdio=streams, extra_fds=(0,))
        io.close()
        supervisor.start(box.id)
    for _ in range(2):
        changes(supervisor, Change.EXIT)
        supervisor.restart(box.id)
    changes(supervisor, Change.EXIT)
    supervisor.restart(box.id, extra_fds=(0,))
    changes(supervisor, Change.EXIT)
    assert out.read_text().split() == ["0", "1", "1", "0"]


def test_each_start_has_a_terminal_of_its_own(box: Box, supervisor: Supervisor) -> None:
    box.program("sh", "-c", "echo said", terminal=True)
    with supervisor.create(box.id, box.bundle.path, terminal=Terminal()):
        supervisor.start(box.id)
        changes(supervisor, Change.EXIT)
    with supervisor.restart(box.id, terminal=Terminal()) as again:
        assert again.terminal is not None
        assert again.terminal.master_fd is not None
        assert b"said" in os.read(again.terminal.master_fd, 100)
        changes(supervisor, Change.EXIT)
    with pytest.raises(ContainerError, match="nobody would have its other end"):
        supervisor.restart(box.id)


def test_of_two_that_start_a_process_of_one_name_at_once_one_does(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    sleep = shell(supervisor, box, "exec sleep inf")
    with ThreadPoolExecutor(3) as threads:
        tried = [threads.submit(supervisor.exec, box.id, "sleep", sleep) for _ in range(3)]
        refused = [each.exception(60) for each in tried if each.exception(60)]
    assert [type(each) for each in refused] == [ProcessExists, ProcessExists]
    assert len(supervisor.container(box.id).processes()) == 2


def test_who_waits_for_an_event_is_woken_when_nobody_is_told_any_more(
    box: Box, supervisor: Supervisor
) -> None:
    start(supervisor, box)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(list, supervisor) for _ in range(2)]
        assert eventually(lambda: all(each.running() for each in waiting))
        supervisor.close()
        assert [each.result(30) for each in waiting] == [[], []]
    assert supervisor.wait() is None


FORKING = """
import os, signal, sys
from pathlib import Path
from runtime import Change, Supervisor
with Supervisor(Path(sys.argv[1])) as supervisor:
    init = supervisor.attach(sys.argv[2])
    if (pid := os.fork()) == 0:
        sys.exit()
    os.waitpid(pid, 0)
    init.signal(signal.SIGKILL)
    while (event := supervisor.wait(30)) and event.change is not Change.EXIT:
        pass
    assert event
"""


def test_a_fork_that_closes_its_copy_leaves_the_other_one_its_events(box: Box) -> None:
    box.start()
    argv = [sys.executable, "-c", FORKING, str(box.root), box.id]
    subprocess.run(argv, check=True, timeout=60)
    box.remove_all()


def test_what_a_verb_ends_has_an_exit_status_too(box: Box, supervisor: Supervisor) -> None:
    """Whoever takes it away from the kernel: a delete of one that was never started, a wait."""
    supervisor.create(box.id, box.bundle.path)
    supervisor.delete(box.id)
    assert changes(supervisor, Change.DELETE)[-2].exit_status == 137
    start(supervisor, box)
    other = Container.load(box.root, box.id)
    other.signal(signal.SIGKILL)
    assert other.wait() == supervisor.container(box.id).wait() == 137
    assert changes(supervisor, Change.EXIT)[-1].exit_status == 137
