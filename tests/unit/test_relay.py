"""A terminal in the foreground: bytes both ways, sizes, and our own terminal as it was."""

import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fcntl import ioctl

import pytest

from runtime.process import passing
from runtime.process.relay import Direction, Relay, raw, window_size

Pair = tuple[int, int]


@pytest.fixture
def own() -> Iterator[Pair]:
    """The terminal that we run in: what its user has of it, and ours."""
    with ExitStack() as stack:
        yield _opened(stack, *os.openpty())


@pytest.fixture
def theirs() -> Iterator[Pair]:
    """The container's: its master, and what the process has."""
    with ExitStack() as stack:
        yield _opened(stack, *os.openpty())


def _opened(stack: ExitStack, *pair: int) -> Pair:
    for fd in pair:
        stack.callback(os.close, fd)
    return pair[0], pair[1]


def give_size(fd: int, height: int, width: int) -> None:
    ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def test_what_was_read_is_written_before_more_is_read() -> None:
    with ExitStack() as stack:
        source, given = _opened(stack, *os.pipe())
        taken, sink = _opened(stack, *os.pipe())
        os.write(given, b"one")
        direction = Direction(source, sink)
        assert direction.wanted() == (source, 1)  # POLLIN
        direction.go_on()
        assert direction.wanted() == (sink, 4)  # POLLOUT
        direction.go_on()
        assert os.read(taken, 10) == b"one"


def test_a_direction_ends_with_its_source() -> None:
    with ExitStack() as stack:
        source, given = os.pipe()
        stack.callback(os.close, source)
        os.close(given)
        direction = Direction(source, source)
        direction.go_on()
        assert direction.wanted() is None
        direction.resume()
        assert direction.wanted() is not None


def test_what_nobody_reads_is_dropped_and_holds_up_nothing() -> None:
    with ExitStack() as stack:
        source, given = os.pipe()
        reader, sink = os.pipe()
        os.close(reader)
        for fd in (source, sink):
            stack.callback(os.close, fd)
        os.write(given, b"x" * 10000)
        os.close(given)
        direction = Direction(source, sink)
        direction.drain()
        assert direction.wanted() is None


def test_the_rest_is_carried_and_no_more_is_awaited(own: Pair, theirs: Pair) -> None:
    os.write(theirs[1], b"last words")
    with raw(own[1]):
        Relay(theirs[0], own[1], own[1]).finish()
    assert os.read(own[0], 100) == b"last words"


def test_a_terminal_that_nobody_has_open_is_looked_at_again() -> None:
    with ExitStack() as stack:
        master_fd, slave_fd = os.openpty()
        stack.callback(os.close, master_fd)
        null = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, null)
        os.close(slave_fd)
        relay = Relay(master_fd, null, null)
        relay.serve({master_fd: 16})  # POLLHUP
        wanted, timeout_ms = relay.wanted()
        assert master_fd not in wanted
        assert timeout_ms
        relay.serve({})
        assert relay.wanted()[1] is None


def test_the_size_is_that_of_the_first_terminal_that_has_one(own: Pair, theirs: Pair) -> None:
    with ExitStack() as stack:
        pipe = _opened(stack, *os.pipe())
        assert window_size(*pipe, own[1]) == (0, 0)
        give_size(own[0], 30, 90)
        assert window_size(*pipe, own[1]) == (30, 90)
        Relay(theirs[0], own[1], own[1]).resize()
        assert window_size(theirs[1]) == (30, 90)


def test_a_terminal_without_a_size_changes_none(own: Pair, theirs: Pair) -> None:
    give_size(theirs[0], 12, 34)
    Relay(theirs[0], own[1], own[1]).resize()
    assert window_size(theirs[1]) == (12, 34)


def test_our_terminal_is_raw_and_then_as_it_was(own: Pair) -> None:
    before = termios.tcgetattr(own[1])
    with suppress(KeyError), raw(own[1]):
        assert not termios.tcgetattr(own[1])[3] & (termios.ISIG | termios.ECHO | termios.ICANON)
        raise KeyError
    assert termios.tcgetattr(own[1]) == before


def test_what_is_no_terminal_is_left_alone() -> None:
    with ExitStack() as stack:
        pipe = _opened(stack, *os.pipe())
        with raw(pipe[0]):
            pass


def test_a_descriptor_is_passed_with_its_text() -> None:
    ends = socket.socketpair()
    with ends[0], ends[1], ExitStack() as stack:
        readable, writable = _opened(stack, *os.pipe())
        passing.send(ends[0].fileno(), b"name", writable)
        text, fd = passing.receive(ends[1].fileno(), 100)
        assert text == b"name"
        assert fd is not None
        stack.callback(os.close, fd)
        assert not os.get_inheritable(fd)
        os.write(fd, b"x")
        assert os.read(readable, 1) == b"x"


def test_a_message_without_a_descriptor_has_none() -> None:
    ends = socket.socketpair()
    with ends[0], ends[1]:
        ends[0].send(b"name")
        assert passing.receive(ends[1].fileno(), 100) == (b"name", None)


def test_of_several_descriptors_one_is_taken() -> None:
    ends = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    with ends[0], ends[1]:
        socket.send_fds(ends[0], [b"x"], [0, 1, 2])
        _, fd = passing.receive(ends[1].fileno(), 1)
        assert fd is not None
        os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before
