"""What the runtime and init say to each other."""

import os
import socket
from collections.abc import Iterator

import pytest

from runtime.process.channel import (
    FAILED,
    FORKED,
    GO,
    MOUNTED,
    READY,
    Channel,
    ChannelClosed,
    Failed,
    UnexpectedMessage,
)

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    runtime, init = (Channel(end.detach()) for end in socket.socketpair())
    yield runtime, init
    runtime.close()
    init.close()


def test_fields_come_out_as_strings(ends: Ends) -> None:
    runtime, init = ends
    init.send(FORKED, 4711, "\udcff ü")
    assert runtime.receive(FORKED) == ["4711", "\udcff ü"]


def test_messages_keep_their_borders(ends: Ends) -> None:
    runtime, init = ends
    init.send(MOUNTED)
    init.send(READY)
    assert runtime.receive(MOUNTED) == []
    assert runtime.receive(READY) == []


def test_a_plan_is_carried_as_it_is(ends: Ends) -> None:
    runtime, init = ends
    plan = {"list": [(1, None)], "text": "ü", "map": {"a": True}}
    runtime.send_plan(plan)
    assert init.receive_plan() == plan


def test_a_plan_is_longer_than_what_a_socket_holds(ends: Ends) -> None:
    runtime, init = ends
    plan = {"env": ["x" * 1000] * 2000}
    if not (child := os.fork()):
        runtime.send_plan(plan)
        os._exit(0)
    assert init.receive_plan() == plan
    os.waitpid(child, 0)


def test_an_unexpected_message_is_an_error_that_names_both(ends: Ends) -> None:
    runtime, init = ends
    init.send(READY)
    with pytest.raises(UnexpectedMessage, match="expected the message 'mounted', received 'ready'"):
        runtime.receive(MOUNTED)


def test_a_failure_is_raised_whatever_was_expected(ends: Ends) -> None:
    runtime, init = ends
    init.send(FAILED, "mounting", "/proc", 13, "Permission denied")
    with pytest.raises(Failed, match="mounting: /proc: Permission denied") as raised:
        runtime.receive(READY)
    assert (raised.value.step, raised.value.path, raised.value.errno) == ("mounting", "/proc", 13)


def test_a_failure_that_is_malformed_is_unexpected(ends: Ends) -> None:
    runtime, init = ends
    init.send(FAILED, "mounting", "/proc", "not a number", "")
    with pytest.raises(UnexpectedMessage):
        runtime.receive(READY)


def test_the_end_of_the_other_side_ends_the_wait(ends: Ends) -> None:
    runtime, init = ends
    init.close()
    with pytest.raises(ChannelClosed, match="'ready'"):
        runtime.receive(READY)


def test_the_other_side_may_end_with_our_words_unread(ends: Ends) -> None:
    runtime, init = ends
    runtime.send(GO)
    init.send(MOUNTED)
    init.close()
    assert runtime.receive(MOUNTED) == []
    with pytest.raises(ChannelClosed):
        runtime.receive(READY)


def test_a_message_cut_short_is_an_end(ends: Ends) -> None:
    runtime, init = ends
    os.write(init.fd, b"\0\0\0\x10read")
    init.close()
    with pytest.raises(ChannelClosed):
        runtime.receive(READY)


def test_init_cannot_have_us_read_without_measure(ends: Ends) -> None:
    runtime, init = ends
    os.write(init.fd, b"\xff\xff\xff\xff")
    with pytest.raises(UnexpectedMessage, match="4294967295 bytes"):
        runtime.receive(READY)
