"""What those who call runc read: the words of its log, and its one line for a failed exec."""

import subprocess

import pytest

from tests.containers import Box
from tests.root.test_command_line import PROGRAM

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

STEPS = (
    "nsexec container setup",
    "child process in init()",
    "init: closing the pipe to signal completion",
)


def run(box: Box, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [PROGRAM, "--root", box.root, *options, "run", "--bundle", box.bundle.path, box.id]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_steps_have_the_names_of_runcs_log(box: Box) -> None:
    log = box.bundle.path / "log"
    box.program("true")
    assert run(box, "--debug", "--log", str(log), "--log-format", "json").stderr == ""
    said = log.read_text()
    assert all(f'"level":"debug","msg":"{words}' in said for words in STEPS)


def test_without_a_log_file_they_are_on_standard_error(box: Box) -> None:
    box.program("true")
    said = run(box, "--debug").stderr
    assert all(f'level=debug msg="{words}' in said for words in STEPS)


def test_a_program_that_is_not_there_is_told_as_by_exec(box: Box) -> None:
    box.program("/none")
    done = run(box)
    assert (done.returncode, done.stderr) == (1, "exec /none: no such file or directory\n")


def test_what_a_terminal_shows_comes_through_a_pipe_as_it_was_written(box: Box) -> None:
    box.program("echo", "a line", terminal=True)
    assert run(box).stdout == "a line\n"
