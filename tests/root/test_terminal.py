"""Containers whose process has a terminal: a pty of their own, and nobody else's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import Container, ContainerError, SetupFailed, Stdio, Terminal
from runtime.checkpoint.dump import checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.restore import Restore
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.spec.model import ConsoleSize, User
from tests.bundles import mount
from tests.containers import Box, Traces
from tests.terminals import ConsoleSocket, Screen

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

LISTENING = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.02; done"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as terminal:
        yield terminal


@pytest.fixture
def console(room: Path) -> Iterator[ConsoleSocket]:
    with ConsoleSocket(room / "console") as console:
        yield console


def started(box: Box, terminal: Terminal, script: str, **process: Any) -> tuple[Container, Screen]:
    """A container that runs *script* in a terminal, and what that shows."""
    box.program("sh", "-c", script, terminal=True, **process)
    container = box.start(terminal=terminal)
    assert terminal.master_fd is not None
    return container, Screen(terminal.master_fd)


def shown(box: Box, script: str, **process: Any) -> list[str]:
    """The lines that *script* writes to its terminal, in a container of its own."""
    outcome = box.shell(script, terminal=True, **process)
    assert outcome.err == ""
    return outcome.out.splitlines()


def test_all_standard_descriptors_are_the_terminal(box: Box) -> None:
    lines = shown(box, "test -t 0 && test -t 1 && test -t 2; echo $?; tty; readlink /proc/$$/fd/2")
    assert lines == ["0", "/dev/pts/0", "/dev/pts/0"]


def test_it_is_the_controlling_terminal_of_the_session_that_init_leads(box: Box) -> None:
    (line,) = shown(box, "cut -d' ' -f5-8 /proc/$$/stat")
    group, session, number, foreground = map(int, line.split())
    assert (group, session, foreground) == (1, 1, 1)
    assert os.major(number) == 136  # UNIX98_PTY_SLAVE_MAJOR


def test_it_has_the_size_of_the_spec(box: Box) -> None:
    size = {"height": 33, "width": 77}
    assert shown(box, "stty size", consoleSize=size) == ["33 77"]


def test_the_size_means_nothing_without_a_terminal(box: Box) -> None:
    size = {"height": 70000, "width": 70000}
    assert box.shell("test -t 1 || echo none", consoleSize=size).out == "none\n"


def test_no_descriptor_of_ours_is_left_in_it(box: Box) -> None:
    assert shown(box, "ls -1 /proc/1/fd; true") == ["0", "1", "2"]


def test_the_console_is_the_terminal(box: Box) -> None:
    assert shown(box, "echo said > /dev/console; stat -c %t:%T /dev/console $(tty)") == [
        "said",
        "88:0",
        "88:0",
    ]


def test_it_belongs_to_the_user_with_the_mode_of_the_devpts(box: Box) -> None:
    script = "stat -c '%u %a' $(tty) /dev/console; echo > /dev/tty"
    assert shown(box, script, user={"uid": 1000, "gid": 1000}) == ["1000 620", "1000 620", ""]


def test_the_interrupt_key_interrupts(box: Box, terminal: Terminal) -> None:
    container, screen = started(box, terminal, LISTENING)
    assert screen.shows("ready")
    screen.type("\x03")
    assert screen.shows("caught")
    assert container.wait() == 7


def test_a_shell_has_job_control(box: Box, terminal: Terminal) -> None:
    _, screen = started(box, terminal, "PS1='> ' exec sh -i")
    assert screen.shows("> ")
    screen.type("sh -c 'echo $((40 + 2)); exec sleep 100'\n")
    assert screen.shows("42")
    screen.type("\x1a")
    assert screen.shows("Stopped")
    screen.type("kill %1; echo $((40 + 3))\n")
    assert screen.shows("43")


def test_a_change_of_size_is_signalled(box: Box, terminal: Terminal) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    _, screen = started(box, terminal, script)
    assert screen.shows("ready")
    screen.resize(50, 132)
    assert screen.shows("50 132")


def test_hanging_up_ends_what_runs_in_it(box: Box) -> None:
    with Terminal() as terminal:
        container, screen = started(box, terminal, "trap 'exit 4' HUP; echo ready; read line")
        assert screen.shows("ready")
    assert container.wait() == 4


def test_a_container_that_was_not_started_ends_too(box: Box, terminal: Terminal) -> None:
    box.program("sleep", "inf", terminal=True)
    container = box.create(terminal=terminal)
    terminal.close()
    container.wait()


@pytest.mark.usefixtures("traceless")
def test_all_that_was_written_arrives(box: Box) -> None:
    assert shown(box, "seq 20000") == [str(number) for number in range(1, 20001)]


class TestExec:
    def test_it_has_a_terminal_of_its_own(self, box: Box, terminal: Terminal) -> None:
        container, _ = started(box, terminal, "sleep 1000")
        outcome = box.exec(container, "tty; cut -d' ' -f6,8 /proc/$$/stat; echo $$", terminal=True)
        name, ids, pid = outcome.out.splitlines()
        assert (name, ids) == ("/dev/pts/1", f"{pid} {pid}")

    def test_it_may_have_one_where_the_container_has_none(self, box: Box) -> None:
        container = box.start()
        size = ConsoleSize(40, 100)
        outcome = box.exec(
            container,
            "tty; stty size; stat -c %u $(tty); test -e /dev/console || echo none; exit 3",
            terminal=True,
            console_size=size,
            user=User(1000, 1000),
        )
        assert outcome.status == 3
        assert outcome.out.splitlines() == ["/dev/pts/0", "40 100", "1000", "none"]

    def test_the_terminal_is_gone_with_it(self, box: Box) -> None:
        container = box.start()
        for _ in range(3):
            assert box.exec(container, "tty", terminal=True).out == "/dev/pts/0\n"

    def test_its_end_does_not_wait_for_others_in_its_terminal(self, box: Box) -> None:
        container = box.start()
        script = "trap '' HUP; sleep 1000 & echo done"
        assert box.exec(container, script, terminal=True).out == "done\n"

    def test_detached_its_terminal_is_handed_over(self, box: Box, console: ConsoleSocket) -> None:
        container = box.start()
        process = container.spec.process._replace(args=("sh", "-c", LISTENING), terminal=True)
        assert container.exec(process, terminal=Terminal(console.path), detach=True) == 0
        name, screen = console.receive()
        with screen:
            assert name == "/dev/pts/0"
            assert screen.shows("ready")
            screen.type("\x03")
            assert screen.shows("caught")

    @pytest.mark.parametrize("has", [True, False])
    def test_what_does_not_fit_is_refused(self, box: Box, room: Path, has: bool) -> None:
        container = box.start()
        fds = os.listdir("/proc/self/fd")
        process = container.spec.process._replace(terminal=has)
        terminal = None if has else Terminal(room / "none")
        with pytest.raises(SetupFailed, match=r"preparing the terminal: .*process\.terminal"):
            container.exec(process, terminal=terminal, detach=True)
        assert len(container.processes()) == 1
        assert os.listdir("/proc/self/fd") == fds


def test_the_terminal_is_handed_over_at_the_console_socket(
    box: Box, console: ConsoleSocket
) -> None:
    box.program("sh", "-c", "read line; echo got $line; read line", terminal=True)
    fds = len(os.listdir("/proc/self/fd"))
    container = box.start(terminal=Terminal(console.path))
    assert len(os.listdir("/proc/self/fd")) == fds
    name, screen = console.receive()
    with screen:
        assert name == "/dev/pts/0"
        screen.type("words\n")
        assert screen.shows("got words")
        assert container.status() == "running"


@pytest.mark.usefixtures("traceless")
class TestRefusals:
    """What cannot be is told in one line, and leaves nothing."""

    def test_a_terminal_that_nobody_takes(self, box: Box) -> None:
        box.program("true", terminal=True)
        with pytest.raises(SetupFailed, match=r"process\.terminal is true, .* --console-socket"):
            box.create()
        with pytest.raises(SetupFailed, match=r"process\.terminal is true"):
            box.run(detach=True)

    def test_a_console_socket_for_no_terminal(self, box: Box, room: Path) -> None:
        box.program("true")
        with pytest.raises(SetupFailed, match=r"console socket is given, .* is not true"):
            box.create(terminal=Terminal(room / "console"))

    def test_a_console_socket_in_the_foreground(self, box: Box, room: Path) -> None:
        box.program("true", terminal=True)
        with pytest.raises(SetupFailed, match="console socket is for a detached process"):
            box.run(terminal=Terminal(room / "console"))

    def test_a_console_socket_at_which_nobody_listens(self, box: Box, room: Path) -> None:
        box.program("true", terminal=True)
        path = room / "none"
        with pytest.raises(SetupFailed, match=f"connecting to the console socket {path}: no such"):
            box.create(terminal=Terminal(path))

    def test_a_program_that_is_not_there(self, box: Box, terminal: Terminal) -> None:
        box.program("nope", terminal=True)
        with pytest.raises(SetupFailed, match="exec nope: executable file not found"):
            box.create(terminal=terminal)
        assert terminal.master_fd is None

    def test_a_container_without_a_devpts(self, box: Box, terminal: Terminal) -> None:
        mounts = [each for each in box.bundle.spec["mounts"] if each["type"] != "devpts"]
        box.update(mounts=mounts)
        box.program("true", terminal=True)
        with pytest.raises(SetupFailed, match="making the terminal: /dev/pts/ptmx: no such"):
            box.create(terminal=terminal)

    @pytest.mark.parametrize("height", [70000, -1])
    def test_a_size_that_no_terminal_has(self, box: Box, terminal: Terminal, height: int) -> None:
        box.program("true", terminal=True, consoleSize={"height": height, "width": 1})
        with pytest.raises(ContainerError, match=r"process\.consoleSize\.height"):
            box.create(terminal=terminal)


class TestHostileRootfs:
    """What lies where the terminal should be is not opened, and the host's is never used."""

    @pytest.fixture(autouse=True)
    def _host_untouched(self) -> Iterator[None]:
        def host() -> list[Any]:
            console = os.stat("/dev/console") if os.path.exists("/dev/console") else None
            others = [name for name in os.listdir("/dev/pts") if name.isdecimal()]
            return [
                sorted({*os.listdir("/dev/pts")} - {*others}),
                console and (console.st_ino, console.st_mode),
            ]

        before = host()
        yield
        assert host() == before

    def bare(self, box: Box) -> Path:
        """The rootfs' own /dev, with nothing mounted on it."""
        box.update(mounts=[mount("/proc", "proc")])
        box.program("true", terminal=True)
        (box.bundle.rootfs / "dev/pts").mkdir()
        return box.bundle.rootfs / "dev/pts/ptmx"

    @pytest.mark.parametrize("target", ["/dev/pts/ptmx", "/dev/ptmx", "/proc/self/root/dev/ptmx"])
    def test_a_multiplexer_that_is_a_link(self, box: Box, terminal: Terminal, target: str) -> None:
        self.bare(box).symlink_to(target)
        with pytest.raises(SetupFailed, match="/dev/pts/ptmx: too many levels of symbolic links"):
            box.create(terminal=terminal)

    def test_a_directory_of_terminals_that_is_a_link(self, box: Box, terminal: Terminal) -> None:
        self.bare(box).parent.rmdir()
        (box.bundle.rootfs / "dev/pts").symlink_to("/proc/1/root/dev/pts")
        with pytest.raises(SetupFailed, match="/dev/pts/ptmx: too many levels of symbolic links"):
            box.create(terminal=terminal)

    @pytest.mark.parametrize("device", [(5, 2), (10, 200)])
    def test_a_multiplexer_that_is_another_device(
        self, box: Box, terminal: Terminal, device: tuple[int, int]
    ) -> None:
        os.mknod(self.bare(box), 0o20666, os.makedev(*device))
        with pytest.raises(SetupFailed, match="/dev/pts/ptmx: it is not of a devpts: mount one"):
            box.create(terminal=terminal)

    def test_a_multiplexer_that_blocks_who_opens_it(self, box: Box, terminal: Terminal) -> None:
        os.mkfifo(self.bare(box))
        with pytest.raises(SetupFailed, match="it is not of a devpts"):
            box.create(terminal=terminal)

    @pytest.mark.parametrize(
        "target", ["/etc/passwd", "/dev/console", "/proc/sys/kernel/domainname"]
    )
    def test_a_console_that_is_a_link(self, box: Box, terminal: Terminal, target: str) -> None:
        devpts = mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620")
        box.update(mounts=[mount("/proc", "proc"), devpts])
        box.program("true", terminal=True)
        (box.bundle.rootfs / "dev/console").symlink_to(target)
        with pytest.raises(SetupFailed, match="/dev/console: too many levels of symbolic links"):
            box.create(terminal=terminal)

    def test_a_dev_of_the_host_gets_no_console(self, box: Box) -> None:
        bound = {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}
        others = [m for m in box.bundle.spec["mounts"] if not m["destination"].startswith("/dev")]
        devpts = mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620")
        box.update(mounts=[*others, bound, devpts])
        assert shown(box, "tty; grep -c /dev/console /proc/self/mountinfo") == ["/dev/pts/0", "0"]

    def test_an_exec_in_a_container_that_has_put_a_link_there(self, box: Box) -> None:
        box.update(mounts=[mount("/proc", "proc")])
        container = box.start()
        (box.bundle.rootfs / "dev/pts").mkdir()
        (box.bundle.rootfs / "dev/pts/ptmx").symlink_to("/proc/1/fd/0")
        process = container.spec.process._replace(terminal=True, args=("true",))
        with pytest.raises(SetupFailed, match="/dev/pts/ptmx: too many levels of symbolic links"):
            container.exec(process)


@pytest.mark.needs_criu
def test_a_restored_container_has_its_terminal_with_who_restores_it(
    box: Box, terminal: Terminal, room: Path
) -> None:
    container, screen = started(box, terminal, LISTENING)
    assert screen.shows("ready")
    checkpoint(container, CheckpointOptions(image_path=room / "images"))
    other = Terminal()
    options = RestoreOptions(image_path=room / "images", terminal=other)
    restoring = Restore(box.root, box.id, box.bundle.path, options)
    restoring.prepare()
    restoring.run()
    assert other.master_fd is not None
    with Screen(other.master_fd) as screen:
        screen.type("\x03")
        assert screen.shows("caught")
        other.master_fd = None


@pytest.mark.needs_criu
def test_a_restore_without_anybody_for_the_terminal_is_refused(
    box: Box, terminal: Terminal, room: Path
) -> None:
    container, screen = started(box, terminal, LISTENING)
    assert screen.shows("ready")
    checkpoint(container, CheckpointOptions(image_path=room / "images"))
    before = Traces.now(box.root)
    options = RestoreOptions(image_path=room / "images")
    with pytest.raises(SetupFailed, match="nobody would have its other end"):
        Restore(box.root, box.id, box.bundle.path, options).prepare()
    assert Traces.now(box.root) == before


def test_a_foreground_run_reads_what_it_is_given(box: Box) -> None:
    given, out = box.bundle.path / "given", box.bundle.path / "out"
    given.write_text("words\n")
    box.program("sh", "-c", "read line; echo got $line", terminal=True)
    assert Container.run(box.root, box.id, box.bundle.path, stdio=Stdio(given, out)) == 0
    assert out.read_bytes() == b"words\ngot words\n"  # the first is the terminal's echo
