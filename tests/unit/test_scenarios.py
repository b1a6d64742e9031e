"""The pure parts of the stories: the client's protocol and arithmetic, bundles, judgement."""

import json
import socket
import sys
from pathlib import Path

import pytest

from scenarios import answers, story
from scenarios.bundle import Bundle
from scenarios.errors import ScenarioFailed
from scenarios.redis_live import writer
from scenarios.workload import Move, Observation, Outcome


class Talk(writer.Connection):
    """A connection to a script of replies."""

    def __init__(self, *replies: bytes) -> None:
        self.socket, self.redis = socket.socketpair()
        self._pending = b""
        for reply in replies:
            self.redis.sendall(reply)

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.redis.close()


def test_a_command_is_written_as_redis_reads_it() -> None:
    with Talk() as talk:
        talk.send(writer.set_command(b"k", b"v1"), writer.get_command(b"k"))
        assert talk.redis.recv(99) == (
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv1\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
        )


def test_replies_are_read_whole_however_they_arrive() -> None:
    with Talk(b"+O", b"K\r\n$5\r\nab\r\n", b"c\r\n$-1\r\n-ERR no\r\n$0\r\n\r\n") as talk:
        assert [talk.reply() for _ in range(5)] == [b"+OK", b"ab\r\nc", None, b"-ERR no", b""]


def test_a_closed_connection_is_an_error() -> None:
    with Talk(b"+O") as talk:
        talk.redis.close()
        with pytest.raises(ConnectionError, match="closed the connection"):
            talk.reply()


END = b"$12\r\nend of batch\r\n"


def test_lost_and_changed_values_are_found() -> None:
    right, changed = (b"$7\r\nvalue 0\r\n", b"$7\r\nvalue 9\r\n")
    with Talk(right, changed, b"$-1\r\n", END) as talk:
        assert writer.missing(talk, writer.written_pair, 3) == ["write:1", "write:2"]
        assert talk._pending == b""


def test_values_that_are_all_there_are_compared_as_one_piece() -> None:
    with Talk(b"$7\r\nvalue 0\r\n$7\r\nval", b"ue 1\r\n", END) as talk:
        assert writer.missing(talk, writer.written_pair, 2) == []
        assert talk._pending == b""


def test_a_refused_write_ends_the_writing() -> None:
    refused = Talk(b"-OOM command not allowed\r\n", END)
    with refused as talk, pytest.raises(ConnectionError, match="OOM"):
        writer.fill(talk, 1)


def test_the_longest_silence_is_found_with_what_came_before_it() -> None:
    ms = 1_000_000
    assert writer.longest_silence([0, ms, 2 * ms, 90 * ms, 91 * ms]) == (88.0, 3)
    assert writer.longest_silence([]) == (0.0, 0)


def test_values_to_fill_with_have_their_size_and_differ() -> None:
    values = {writer.fill_pair(number)[1] for number in range(100)}
    assert len(values) == 100
    assert {len(value) for value in values} == {writer.FILL_VALUE_BYTES}


def test_a_bundle_has_the_program_with_its_libraries(tmp_path: Path) -> None:
    program = Path(sys.executable).resolve()
    Bundle(["/bin/x"], programs={"/bin/x": program}, hostname="h").write(tmp_path / "b")
    assert (tmp_path / "b/rootfs/bin/x").read_bytes() == program.read_bytes()
    assert list((tmp_path / "b/rootfs").rglob("libc.so.6"))
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert (config["hostname"], config["process"]["args"]) == ("h", ["/bin/x"])


def test_a_network_namespace_can_be_given_by_path(tmp_path: Path) -> None:
    Bundle(["x"], programs={}).write(tmp_path / "b", namespaces=("pid", "network"), network="/n")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["linux"]["namespaces"] == [{"type": "pid"}, {"type": "network", "path": "/n"}]


def outcome(alpha: int, beta: int, *problems: str) -> Outcome:
    seen = Observation(10.0, 1.0, {"lost": 0}, problems)
    move = Move(100.0, 7, 5.0, {"downtime_ms": 5.0, "total_ms": 100.0, "bytes": 7, "phases": []})
    listed: dict[str, dict[str, str]] = {"alpha": {}, "beta": {"redis": "running"}}
    return Outcome(move, seen, {"alpha": alpha, "beta": beta}, listed)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0, 0), (1, 0), (0, 2)])
def test_anything_but_one_copy_at_the_destination_is_a_problem(alpha: int, beta: int) -> None:
    assert outcome(alpha, beta).problems != []


def test_one_copy_at_the_destination_is_as_it_should_be() -> None:
    assert outcome(0, 1).problems == []
    assert outcome(0, 1, "a key is lost").problems == ["a key is lost"]


def test_a_result_is_held_against_what_is_expected() -> None:
    facts = {"lost": 1, "silence_ms": 80.0, "after": 10, "copies": {"alpha": 0}}
    expected = {"copies": {"alpha": 0}, "silence_ms": {"at_most": 100}, "after": {"at_least": 10}}
    assert story.differences(expected, facts) == []
    assert story.differences({"lost": 0}, facts) == ["lost is 1, expected 0"]
    assert len(story.differences({"silence_ms": {"at_most": 10, "at_least": 1}}, facts)) == 1
    assert len(story.differences({"absent": {"at_least": 1}}, facts)) == 1


def test_every_story_has_what_a_story_needs() -> None:
    assert story.names() == ["half-zero", "idle", "redis-live", "write-heavy"]
    for name in story.names():
        directory = Path(story.__file__).parent / name.replace("-", "_")
        assert (directory / "README.md").read_text().startswith(f"# {name}: ")
        assert json.loads((directory / "expected.json").read_text())["copies"]
        assert story.load(name).SUMMARY


def test_an_unknown_story_is_named_with_those_there_are() -> None:
    with pytest.raises(ScenarioFailed, match="no story nonsense: there are half-zero, idle"):
        story.load("nonsense")


def test_answers_say_where_it_runs() -> None:
    facts = {"bandwidth": "1gbit", **story.facts_of(outcome(0, 1))}
    said = dict(answers.answers(facts))
    assert said["on alpha"] == "not running; listed: nothing"
    assert said["on beta"] == "running; listed: redis (running)"
