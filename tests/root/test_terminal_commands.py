"""`migrator run`, `exec` and `create` with a terminal, from outside: ours stays as it was."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers import Box
from tests.terminals import ConsoleSocket, Screen
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

PROGRAM = str(Path(sys.executable).with_name("migrator"))
TIMEOUT_S = 30
# <asm/unistd.h>; poll is ppoll where there is but that
WRITE, POLL = {"x86_64": ("1", "7"), "aarch64": ("64", "73")}[os.uname().machine]


class Window:
    """A terminal of our own, with a migrator in its foreground."""

    def __init__(self, root: Path) -> None:
        self._argv = [PROGRAM, "--root", str(root)]
        master_fd, self.fd = os.openpty()
        self.screen = Screen(master_fd)
        self.screen.resize(24, 80)
        self.settings = termios.tcgetattr(self.fd)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.screen.fd)

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        own = {"stdin": self.fd, "stdout": self.fd, "stderr": self.fd}
        return subprocess.Popen(
            [*self._argv, *arguments], start_new_session=True, preexec_fn=_take_terminal, **own
        )

    def ends(self, migrator: subprocess.Popen[bytes]) -> int:
        """The exit code of *migrator*; the terminal is then as it was before."""
        status = migrator.wait(TIMEOUT_S)
        assert termios.tcgetattr(self.fd) == self.settings
        return status


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def window(box: Box) -> Iterator[Window]:
    window = Window(box.root)
    yield window
    window.close()


@pytest.fixture
def console(room: Path) -> Iterator[ConsoleSocket]:
    with ConsoleSocket(room / "console") as console:
        yield console


def migrator(box: Box, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """One without a terminal."""
    return subprocess.run(
        [PROGRAM, "--root", str(box.root), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **settings,
    )


def of(box: Box, script: str) -> tuple[str, ...]:
    """The arguments of `run` for a container with a terminal that runs *script*."""
    box.program("sh", "-c", script, terminal=True)
    return "--bundle", str(box.bundle.path), box.id


def test_run_shows_the_container_in_our_terminal(box: Box, window: Window) -> None:
    script = "tty; stty size; echo ready; read line; echo got $line; exit 3"
    run = window.run("run", *of(box, script))
    assert window.screen.shows("/dev/pts/0\r\n24 80\r\nready")
    window.screen.type("words\r")  # what the return key sends, raw
    assert window.screen.shows("got words\r\n")
    assert window.ends(run) == 3


def test_keys_and_sizes_are_for_the_container(box: Box, window: Window) -> None:
    script = "trap 'stty size' WINCH; trap 'echo caught; exit 7' INT; echo ready; "
    run = window.run("run", *of(box, script + "while :; do sleep 0.02; done"))
    assert window.screen.shows("ready")
    window.screen.resize(50, 132)
    assert window.screen.shows("50 132")
    window.screen.type("\x03")
    assert window.screen.shows("caught")
    assert window.ends(run) == 7


def test_a_signal_that_ends_it_leaves_our_terminal_as_it_was(box: Box, window: Window) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.02; done"
    run = window.run("run", *of(box, script))
    assert window.screen.shows("ready")
    os.kill(run.pid, signal.SIGTERM)
    assert window.screen.shows("bye")
    assert window.ends(run) == 9


@pytest.mark.usefixtures("traceless")
def test_a_run_that_cannot_begin_leaves_our_terminal_as_it_was(box: Box, window: Window) -> None:
    arguments = of(box, "true")
    box.program("nope", terminal=True)
    assert window.ends(window.run("run", *arguments)) == 1
    assert window.screen.shows("exec nope: executable file not found in $PATH")


def test_a_program_that_cannot_be_executed_leaves_our_terminal_as_it_was(
    box: Box, window: Window
) -> None:
    broken = box.bundle.rootfs / "bin/broken"
    broken.write_text("\x7fELF")
    broken.chmod(0o755)
    arguments = of(box, "true")
    box.program("broken", terminal=True)
    assert window.ends(window.run("run", *arguments)) == 1
    assert window.screen.shows("exec format error")


def test_exec_gives_its_process_a_terminal(box: Box, window: Window) -> None:
    box.start()
    script = "tty; stty size; read line; echo got $line; exit 4"
    run = window.run("exec", "-t", box.id, "sh", "-c", script)
    assert window.screen.shows("/dev/pts/0\r\n24 80\r\n")
    window.screen.type("words\r")
    assert window.screen.shows("got words")
    assert window.ends(run) == 4


def test_exec_without_it_has_none_though_the_container_has(
    box: Box, console: ConsoleSocket
) -> None:
    arguments = of(box, "sleep 1000")
    box.made.append(box.id)
    assert (
        migrator(box, "run", "-d", "--console-socket", str(console.path), *arguments).stderr == ""
    )
    _, screen = console.receive()
    with screen:
        done = migrator(box, "exec", box.id, "sh", "-c", "test -t 0 || test -t 1 || echo none")
        assert (done.returncode, done.stdout) == (0, "none\n")


def test_a_created_container_hands_its_terminal_over(box: Box, console: ConsoleSocket) -> None:
    box.made.append(box.id)
    arguments = of(box, "echo ready; read line; echo got $line; read line")
    done = migrator(box, "create", "-console-socket", str(console.path), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    name, screen = console.receive()
    with screen:
        assert name == "/dev/pts/0"
        assert migrator(box, "start", box.id).returncode == 0
        assert screen.shows("ready")
        screen.type("words\n")
        assert screen.shows("got words")


def test_a_detached_exec_hands_its_terminal_over_as_podman_asks_for_it(
    box: Box, console: ConsoleSocket
) -> None:
    container = box.start()
    pid_file, file = box.bundle.path / "pid", box.bundle.path / "process.json"
    file.write_text('{"terminal": true, "args": ["sh", "-c", "tty; read x"], "cwd": "/"}')
    own = ("--pid-file", str(pid_file), "--process", str(file))
    more = ("--detach", "--tty", "--console-socket", str(console.path), box.id)
    done = migrator(box, "exec", *own, *more)
    assert (done.returncode, done.stderr) == (0, "")
    name, screen = console.receive()
    with screen:
        assert name == "/dev/pts/0"
        assert int(pid_file.read_text()) in container.processes()


@pytest.mark.usefixtures("traceless")
@pytest.mark.parametrize(
    ("command", "has", "why"),
    [
        (["run", "-d"], True, "process.terminal is true, and nobody would have its other end"),
        (["create"], True, "give --console-socket, or set it to false"),
        (["create", "--console-socket", "/none"], False, "process.terminal is not true"),
        (["run", "-d", "--console-socket", "/none"], False, "process.terminal is not true"),
        (["create", "--console-socket", "/none/x"], True, "/none/x: /none: no such file"),
        (["run", "--console-socket", "/none"], True, "is for a detached process: leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(box: Box, command: list[str], has: bool, why: str) -> None:
    box.program("true", terminal=has)
    done = migrator(box, *command, "--bundle", str(box.bundle.path), box.id)
    assert done.returncode == 1
    assert done.stderr.startswith("migrator: ")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr


def test_an_exec_that_does_not_fit_is_refused(box: Box) -> None:
    box.start()
    for options, why in (
        (["-d", "-t"], "nobody would have its other end"),
        (["-d", "--console-socket", "/none"], "process.terminal is not true"),
        (["-t", "--console-socket", "/none"], "is for a detached process"),
    ):
        done = migrator(box, "exec", *options, box.id, "true")
        assert (done.returncode, done.stderr.count("\n")) == (255, 1)
        assert why in done.stderr


def asleep_in(process: subprocess.Popen[bytes]) -> list[str]:
    """Number and arguments of the call that *process* sleeps in (proc_pid_syscall(5))."""
    return Path(f"/proc/{process.pid}/syscall").read_text().split()


def test_output_is_not_lost_when_nobody_reads_fast(box: Box, window: Window) -> None:
    run = window.run("run", *of(box, "seq 30000; echo end"))  # more than both terminals hold
    assert eventually(lambda: asleep_in(run)[0] == WRITE)  # ours takes no more
    assert window.screen.shows("29999\r\n30000\r\nend")
    assert window.ends(run) == 0


def test_output_goes_on_after_the_terminal_was_closed_and_opened_again(
    box: Box, window: Window
) -> None:
    script = "exec 0<&- 1>&- 2>&-; until test -e /go; do sleep 0.01; done; echo back >/dev/console"
    run = window.run("run", *of(box, script))
    # It has met the end of the terminal when it polls but for the process, signals and our input.
    assert eventually(lambda: asleep_in(run)[:3:2] == [POLL, "0x3"])
    (box.bundle.rootfs / "go").touch()
    assert window.screen.shows("back\r\n")
    assert window.ends(run) == 0


@pytest.mark.needs_criu
def test_a_restore_in_the_foreground_shows_its_terminal(
    box: Box, window: Window, console: ConsoleSocket, room: Path
) -> None:
    box.program("sh", "-c", "stty -echo; echo ready; read word; echo $word; exit 5", terminal=True)
    detached = ("run", "--detach", "--console-socket", str(console.path))
    assert migrator(box, *detached, "--bundle", str(box.bundle.path), box.id).returncode == 0
    _, screen = console.receive()
    with screen:
        assert screen.shows("ready")
        images = ("--image-path", str(room / "images"))
        assert migrator(box, "checkpoint", *images, box.id).returncode == 0
    restoring = window.run("restore", *images, "--bundle", str(box.bundle.path), box.id)
    window.screen.type("word\n")
    assert window.screen.shows("word")
    assert window.ends(restoring) == 5
