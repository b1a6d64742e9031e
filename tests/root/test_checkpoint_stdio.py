"""What leads out of a container through its standard descriptors, over checkpoint and restore."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from runtime import CheckpointFailed, RestoreFailed, Stdio
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

SPEAK = "n=0; while :; do n=$((n+1)); echo line $n; echo problem $n >&2; sleep 0.02; done"
REPEAT = "while read line; do echo got $line; done"


class Pipe:
    """A pipe whose read end is ours, and gives the lines that came."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self.theirs = os.pipe()
        stack.callback(os.close, self.ours)
        stack.callback(os.close, self.theirs)
        os.set_blocking(self.ours, False)
        self._text = ""

    def lines(self) -> list[str]:
        with suppress(BlockingIOError):
            self._text += os.read(self.ours, 65536).decode()
        return self._text.splitlines()[: self._text.count("\n")]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def numbers(lines: list[str], word: str = "line") -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(f"{word} ")]


def whole(found: list[int]) -> bool:
    """Whether all numbers came, once each and in order."""
    return found == list(range(1, len(found) + 1))


def recorded(migratory: Migratory) -> list[str]:
    links: list[str] = json.loads((migratory.images / "descriptors.json").read_text())
    return links


def test_null_stays_null(migratory: Migratory) -> None:
    migratory.start()
    migratory.checkpoint()
    assert recorded(migratory) == ["/dev/null"] * 3
    pid = migratory.restore().state.init_pid
    assert os.stat(f"/proc/{pid}/fd/1").st_rdev == os.makedev(1, 3)
    assert migratory.counts()


def test_pipes_are_replaced_by_new_ones(migratory: Migratory, stack: ExitStack) -> None:
    """And once more, by others: what is replaced is known by the name that it has then."""
    out, err = Pipe(stack), Pipe(stack)
    migratory.start(SPEAK, stdio=Stdio(None, out.theirs, err.theirs))
    assert eventually(lambda: len(out.lines()) > 3 and len(err.lines()) > 3)
    spoken, problems = [], []
    for _ in range(3):
        migratory.checkpoint()
        assert [link.partition(":")[0] for link in recorded(migratory)] == [
            "/dev/null",
            "pipe",
            "pipe",
        ]
        spoken += out.lines()
        problems += err.lines()
        out, err = Pipe(stack), Pipe(stack)
        migratory.restore(stdio=Stdio(None, out.theirs, err.theirs))
        assert eventually(lambda o=out, e=err: len(o.lines()) > 3 and len(e.lines()) > 3)
    assert whole(numbers(spoken + out.lines()))
    assert whole(numbers(problems + err.lines(), "problem"))
    assert migratory.container.state.external_descriptors[1].startswith("pipe:[")


def test_one_pipe_for_both_stays_one(migratory: Migratory, stack: ExitStack) -> None:
    both = Pipe(stack)
    migratory.start(SPEAK, stdio=Stdio(None, both.theirs, both.theirs))
    assert eventually(lambda: len(both.lines()) > 6)
    migratory.checkpoint()
    first = both.lines()
    both = Pipe(stack)
    pid = migratory.restore(stdio=Stdio(None, both.theirs, both.theirs)).state.init_pid
    assert eventually(lambda: len(both.lines()) > 6)
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2")
    assert whole(numbers(first + both.lines()))


def test_a_log_file_is_appended_to(migratory: Migratory, room: Path) -> None:
    log = room / "log"
    migratory.start(SPEAK, stdio=Stdio(None, log, log))
    assert eventually(lambda: log.exists() and log.read_text().count("\n") > 6)
    for _ in range(2):
        migratory.checkpoint()
        assert recorded(migratory)[1:] == [str(log)] * 2
        lines = log.read_text().count("\n")
        migratory.restore(stdio=Stdio(None, log, log))
        assert eventually(lambda n=lines: log.read_text().count("\n") > n + 6)
    lines_now = log.read_text().splitlines()
    assert whole(numbers(lines_now))
    assert whole(numbers(lines_now, "problem"))


def test_a_file_that_is_not_appended_to_goes_on_at_its_place(
    migratory: Migratory, room: Path
) -> None:
    log = room / "log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    migratory.start(SPEAK, stdio=Stdio(None, fd, None))
    os.close(fd)
    assert eventually(lambda: log.read_text().count("\n") > 3)
    migratory.checkpoint()
    lines = log.read_text().count("\n")
    fd = os.open(log, os.O_WRONLY)
    migratory.restore(stdio=Stdio(None, fd, None))
    os.close(fd)
    assert eventually(lambda: log.read_text().count("\n") > lines + 3)
    assert whole(numbers(log.read_text().splitlines()))


def test_input_from_a_file_is_read_on(migratory: Migratory, room: Path) -> None:
    source, out = room / "in", room / "out"
    source.write_text("".join(f"{n}\n" for n in range(1, 2001)))
    script = "while read n; do echo line $n; sleep 0.005; done; sleep 1000"
    migratory.start(script, stdio=Stdio(source, out, None))
    assert eventually(lambda: out.read_text().count("\n") > 20)
    migratory.checkpoint()
    before = out.read_text().count("\n")
    migratory.restore(stdio=Stdio(source, out, None))
    assert eventually(lambda: out.read_text().count("\n") > before + 100)
    assert whole(numbers(out.read_text().splitlines()))


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_pipes_and_files_stand_in_for_each_other(
    migratory: Migratory, stack: ExitStack, room: Path, kind: str
) -> None:
    """A log that is given for a pipe has lines already, which are not overwritten."""
    log = room / "log"
    log.write_text("kept\n")
    pipe = Pipe(stack)
    first, second = (pipe.theirs, log) if kind == "pipe" else (log, pipe.theirs)
    migratory.start(SPEAK, stdio=Stdio(None, first, None))
    spoken = lambda: log.read_text().splitlines() + pipe.lines()  # noqa: E731
    assert eventually(lambda: len(spoken()) > 5)
    migratory.checkpoint()
    before = len(spoken())
    migratory.restore(stdio=Stdio(None, second, None))
    assert eventually(lambda: len(spoken()) > before + 5)
    assert log.read_text().startswith("kept\n")
    assert whole(sorted(numbers(spoken())))


def test_null_stands_in_for_what_is_not_given(migratory: Migratory, stack: ExitStack) -> None:
    """The container can be moved again after that."""
    pipe = Pipe(stack)
    migratory.start(stdio=Stdio(None, pipe.theirs, pipe.theirs))
    for _ in range(2):
        migratory.checkpoint()
        migratory.restore()
        assert migratory.counts()


def test_a_conversation_goes_on(migratory: Migratory, stack: ExitStack) -> None:
    ask, answer = os.pipe()[::-1], Pipe(stack)
    migratory.start(REPEAT, stdio=Stdio(ask[1], answer.theirs, None))
    os.write(ask[0], b"one\n")
    assert eventually(lambda: answer.lines() == ["got one"])
    migratory.checkpoint()
    other = os.pipe()[::-1]
    migratory.restore(stdio=Stdio(other[1], answer.theirs, None))
    os.write(other[0], b"two\n")
    assert eventually(lambda: answer.lines() == ["got one", "got two"])
    for fd in (*ask, *other):
        os.close(fd)


def test_a_socket_of_the_host_is_refused_by_name(migratory: Migratory, stack: ExitStack) -> None:
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    migratory.start(stdio=Stdio(None, theirs.fileno(), None))
    with pytest.raises(CheckpointFailed, match="is a socket of the host: use a pipe or a file"):
        migratory.checkpoint()
    assert migratory.counts()
    assert ours.fileno() >= 0


def test_a_socket_in_place_of_a_pipe_is_refused_by_name(
    migratory: Migratory, stack: ExitStack
) -> None:
    pipe = Pipe(stack)
    migratory.start(stdio=Stdio(None, pipe.theirs, None))
    migratory.checkpoint()
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    with pytest.raises(RestoreFailed, match="the given stdout is a socket where a pipe"):
        migratory.restore(stdio=Stdio(None, theirs.fileno(), None))
    assert ours.fileno() >= 0
