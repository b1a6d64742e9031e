"""The wire between source and agent: what is sent arrives, nothing else is taken for a message."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass

import pytest

from migrator import messages as m
from migrator.agent import Agent
from migrator.destination import AgentFailed
from migrator.errors import PeerLost, ProtocolError
from migrator.wire import MAX_FRAME, PROTOCOL, Channel, PipeStream, decode, encode, protocol_of


@pytest.fixture
def pipe():
    """A channel and the descriptor that feeds it."""
    read_fd, feed = os.pipe()
    ours, write_fd = os.pipe()
    yield Channel(PipeStream(read_fd, write_fd), peer="beta"), feed
    for fd in (read_fd, feed, ours, write_fd):
        try:
            os.close(fd)
        except OSError:
            continue


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_every_message_survives_the_wire():
    samples = {int: 7, str: "x", bool: True, float: 1.5}
    samples |= {list[str]: ["a"], list[int]: [1], dict[str, int]: {"a": 1}}
    samples[float | None] = 1.5
    for cls in m.REGISTRY.values():
        hints = cls.__annotations__
        values = {}
        for name, hint in hints.items():
            kind = eval(hint, {**vars(m), "Any": object}) if isinstance(hint, str) else hint
            values[name] = samples.get(kind, {} if "dict" in str(hint) else [])
        message = cls(**values)
        assert decode(encode(message), peer="beta") == message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not json", "not JSON"),
        (b"[1]", "no object"),
        (b'{"type": "Launch"}', "unknown type 'Launch'"),
        (b"[" * 100_000, "not JSON"),
        (b'{"type": 3}', "unknown type 3"),
        (b'{"type": "Hello", "protocol": 1}', "without 'version'"),
        (b'{"type": "Hello", "protocol": "1", "version": "x"}', "Hello.protocol"),
        (b'{"type": "Hello", "protocol": true, "version": "x"}', "Hello.protocol"),
        (b'{"type": "Commit", "force": true}', "unknown field 'force'"),
        (b'{"type": "Restore", "files": {"a": "b"}}', "Restore.files"),
    ],
)
def test_what_is_no_message_is_an_error_that_names_the_peer(body, says):
    with pytest.raises(ProtocolError, match="beta") as caught:
        decode(body, peer="beta")
    assert says in str(caught.value)


def test_other_fields_are_another_protocol():
    """Also where nobody has raised a number for them."""

    @dataclass
    class Commit:
        held: dict[str, int]

    assert protocol_of(m.REGISTRY) == PROTOCOL == protocol_of({**m.REGISTRY})
    assert protocol_of(m.REGISTRY | {"Commit": Commit}) != PROTOCOL


@pytest.mark.parametrize(
    "said",
    [
        frame(b'{"type":"Hello","protocol":1,"version":"0","more":1}'),
        frame(encode(m.Hello(PROTOCOL, "0"))) + frame(b'{"type":"Offer"}'),
    ],
)
def test_an_agent_that_does_not_understand_says_so_and_ends(pipe, tmp_path, said):
    source, answers_fd = pipe
    questions_fd, feed = os.pipe()
    os.write(feed, said)
    stream = PipeStream(questions_fd, answers_fd)
    with pytest.raises(ProtocolError):
        Agent(Channel(stream, peer="the source"), tmp_path, criu=None).serve()
    for fd in (questions_fd, feed):
        os.close(fd)
    answers = [source.receive(timeout_s=5) for _ in range(said.count(b'"type"'))]
    assert isinstance(answers[-1], m.Failed)
    assert "is the same version of migrator installed on both hosts?" in answers[-1].message


def test_what_a_peer_says_is_printed_as_one_line():
    assert str(AgentFailed("beta", "Error", "no\x1b[2J\nroom")) == "beta: no [2J room"


def test_pings_are_not_seen(pipe):
    channel, feed = pipe
    os.write(feed, frame(encode(m.Ping())) + frame(encode(m.Commit({}))))
    assert channel.receive() == m.Commit({})


def test_a_frame_in_pieces_is_one_message(pipe):
    channel, feed = pipe
    data = frame(encode(m.Discard("because")))
    os.write(feed, data[:3])
    calls = []

    def rest() -> None:
        if not calls:
            os.write(feed, data[3:])
        calls.append(1)

    assert channel.receive(alive=rest) == m.Discard("because")


def test_an_oversized_frame_is_refused_before_it_is_read(pipe):
    channel, feed = pipe
    os.write(feed, struct.pack(">I", MAX_FRAME + 1))
    with pytest.raises(ProtocolError, match=str(MAX_FRAME + 1)):
        channel.receive()


def test_text_in_place_of_a_message_is_called_so(pipe):
    channel, feed = pipe
    os.write(feed, b"welcome to beta")
    with pytest.raises(ProtocolError, match=r"'welc' \.\.\.\), as a login script"):
        channel.receive()


def test_the_end_of_the_stream_is_a_lost_peer(pipe):
    channel, feed = pipe
    os.write(feed, b"\0\0")
    os.close(feed)
    with pytest.raises(PeerLost, match="lost beta"):
        channel.receive()


def test_silence_is_a_lost_peer(pipe):
    channel, _ = pipe
    with pytest.raises(PeerLost, match=r"no answer in time"):
        channel.receive(timeout_s=0.2)


def test_the_holder_is_asked_while_it_waits(pipe):
    channel, _ = pipe

    def dead() -> None:
        raise RuntimeError("criu died")

    with pytest.raises(RuntimeError, match="criu died"):
        channel.receive(alive=dead)


def test_sending_to_a_closed_stream_is_a_lost_peer():
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    channel = Channel(PipeStream(0, write_fd), peer="beta")
    with pytest.raises(PeerLost, match="cannot send Commit"):
        channel.send(m.Commit({}))
    os.close(write_fd)


def test_encoding_is_plain_json():
    assert json.loads(encode(m.Discard("x"))) == {"type": "Discard", "why": "x"}
