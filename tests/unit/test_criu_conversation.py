"""The conversation with criu, against one that plays a script as a real process."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from criu_rpc import (
    BadReply,
    Criu,
    CriuDied,
    CriuError,
    CriuNotFound,
    CriuRequestFailed,
    CriuTooOld,
    DumpOptions,
    MissingFeature,
    Notification,
    RestoreOptions,
    Version,
    find_criu,
)

Step = dict[str, Any]
Starter = Callable[[list[Step]], Criu]

FAKE = Path(__file__).parents[1] / "fakes" / "criu.py"
VERSION: list[Step] = [
    {"expect": "VERSION"},
    {
        "reply": {
            "type": "VERSION",
            "success": True,
            "version": {"major_number": 4, "minor_number": 2, "sublevel": 1},
        }
    },
]
DUMPED: Step = {"reply": {"type": "DUMP", "success": True}}
FAILED: Step = {"reply": {"type": "DUMP", "success": False, "cr_errno": 3}}


@pytest.fixture
def fake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Starter:
    program = tmp_path / "criu"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(0o755)

    def start(steps: list[Step]) -> Criu:
        monkeypatch.setenv("FAKE_CRIU_SCRIPT", json.dumps(steps))
        monkeypatch.setenv("FAKE_CRIU_HEARD", str(tmp_path / "heard"))
        criu = Criu.start(program)
        request.addfinalizer(criu.close)
        request.addfinalizer(criu.kill)
        return criu

    return start


@pytest.fixture
def options(tmp_path: Path) -> DumpOptions:
    return DumpOptions(pid=4242, images_dir=tmp_path, tcp_established=True)


def heard(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]


def test_version_is_asked_once_and_compares_as_numbers(fake: Starter) -> None:
    criu = fake(VERSION)
    assert criu.version() == criu.version() == Version(4, 2, 1)
    assert Version(3, 17) < criu.version() < Version(4, 10)


def test_features_come_as_answered(fake: Starter) -> None:
    found = {"mem_track": False, "lazy_pages": True, "pidfd_store": True}
    criu = fake(
        [
            {"expect": "FEATURE_CHECK"},
            {"reply": {"type": "FEATURE_CHECK", "success": True, "features": found}},
        ]
    )
    features = criu.features()
    assert (features.mem_track, features.lazy_pages, features.pidfd_store) == (False, True, True)


def test_too_old_criu_is_refused_before_a_dump(fake: Starter, options: DumpOptions) -> None:
    old = {"major_number": 3, "minor_number": 17, "sublevel": 1}
    criu = fake(
        [
            {"expect": "VERSION"},
            {"reply": {"type": "VERSION", "success": True, "version": old}},
            {"expect": "DUMP"},
        ]
    )
    with pytest.raises(CriuTooOld, match=r"criu 3\.17\.1 is too old .*, 4\.\d or newer"):
        criu.dump(options)


def test_missing_features_are_named(fake: Starter) -> None:
    found = {"mem_track": False, "lazy_pages": True, "pidfd_store": False}
    criu = fake(
        [
            *VERSION,
            {"expect": "FEATURE_CHECK"},
            {"reply": {"type": "FEATURE_CHECK", "success": True, "features": found}},
        ]
    )
    with pytest.raises(MissingFeature, match=r"lacks mem_track, pidfd_store$"):
        criu.require("mem_track", "lazy_pages", "pidfd_store")


def test_notifications_reach_the_handler_in_order(
    fake: Starter, options: DumpOptions, tmp_path: Path
) -> None:
    seen: list[Notification] = []
    criu = fake(
        [
            *VERSION,
            {"expect": "DUMP"},
            {"notify": "pre-dump"},
            {"notify": "post-dump", "pid": 77},
            DUMPED,
        ]
    )
    criu.dump(options, seen.append)
    assert seen == [Notification("pre-dump"), Notification("post-dump", 77)]
    dump, *answers = heard(tmp_path)[1:]
    assert dump["opts"]["pid"] == 4242
    assert dump["opts"]["tcp_established"]
    assert dump["opts"]["notify_scripts"]
    assert [answer["notify_success"] for answer in answers] == [True, True]


def test_descriptors_are_open_in_the_handler_and_closed_after_it(
    fake: Starter, tmp_path: Path
) -> None:
    lent: list[int] = []

    def look(notification: Notification) -> None:
        lent.extend(notification.fds)
        assert all(os.fstat(fd) for fd in notification.fds)

    criu = fake(
        [
            *VERSION,
            {"expect": "RESTORE"},
            {"notify": "orphan-pts-master", "fds": 2},
            {"reply": {"type": "RESTORE", "success": True, "restore": {"pid": 12}}},
        ]
    )
    assert criu.restore(RestoreOptions(images_dir=tmp_path), look).pid == 12
    assert len(lent) == 2
    for fd in lent:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_blocking_handler_holds_criu(fake: Starter, options: DumpOptions, tmp_path: Path) -> None:
    after = tmp_path / "after-the-hold"
    criu = fake(
        [*VERSION, {"expect": "DUMP"}, {"notify": "post-dump"}, {"touch": str(after)}, DUMPED]
    )

    def hold(_: Notification) -> None:
        time.sleep(0.2)
        assert not after.exists()
        assert criu.alive()

    criu.dump(options, hold)
    assert after.exists()


def test_a_raising_handler_refuses_and_its_exception_comes_out(
    fake: Starter, options: DumpOptions, tmp_path: Path
) -> None:
    criu = fake(
        [
            *VERSION,
            {"expect": "DUMP"},
            {"notify": "post-dump"},
            {"notify": "network-unlock"},
            FAILED,
        ]
    )
    calls: list[str] = []

    def refuse(notification: Notification) -> None:
        calls.append(notification.script)
        raise LookupError("the destination is gone")

    with pytest.raises(LookupError, match="the destination is gone") as caught:
        criu.dump(options, refuse)
    assert "criu dump failed" in caught.value.__notes__[0]
    assert calls == ["post-dump"], "what follows a refusal is only acknowledged"
    assert [a["notify_success"] for a in heard(tmp_path)[2:]] == [False, True]


def test_a_refusal_that_criu_does_not_heed_still_comes_out(
    fake: Starter, options: DumpOptions
) -> None:
    criu = fake([*VERSION, {"expect": "DUMP"}, {"notify": "network-unlock"}, DUMPED])

    def refuse(_: Notification) -> None:
        raise LookupError("too late")

    with pytest.raises(LookupError) as caught:
        criu.dump(options, refuse)
    assert caught.value.__notes__ == ["criu dump went on and succeeded"]


def test_an_interrupt_while_waiting_refuses_the_next_notification(
    fake: Starter, options: DumpOptions, tmp_path: Path
) -> None:
    started, interrupted = tmp_path / "started", tmp_path / "interrupted"
    main = threading.get_ident()  # the one that waits; the kernel might choose another
    criu = fake(
        [
            *VERSION,
            {"expect": "DUMP"},
            {"touch": str(started)},
            {"await": str(interrupted)},
            {"notify": "post-dump"},
            FAILED,
        ]
    )

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    def on_interrupt(*_: object) -> None:
        interrupted.touch()
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, on_interrupt)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        criu.dump(options)
    thread.join()
    signal.signal(signal.SIGINT, former)
    assert heard(tmp_path)[-1]["notify_success"] is False


def test_failure_tells_errno_message_cause_and_remedy(
    fake: Starter, options: DumpOptions, tmp_path: Path
) -> None:
    log = (
        "(00.000001) Dumping processes\n"
        "(00.004242) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using "
        "--tcp-established option.\n"
        "(00.005000) Error (criu/cr-dump.c:2128): Dumping FAILED.\n"
    )
    reply = {
        "type": "DUMP",
        "success": False,
        "cr_errno": 16,
        "cr_errmsg": "Error (criu/sk-inet.c:191): inet: Connected TCP socket\n",
    }
    criu = fake([*VERSION, {"expect": "DUMP"}, {"log": log}, {"reply": reply}])
    with pytest.raises(CriuRequestFailed) as caught:
        criu.dump(options)
    error = caught.value
    assert error.cr_errno == 16
    assert error.cr_errmsg == "inet: Connected TCP socket"
    assert error.log_path == tmp_path / "dump.log"
    assert str(error) == (
        "criu dump failed: inet: Connected TCP socket, consider using --tcp-established option.; "
        f"allow it with --tcp-established (log: {tmp_path}/dump.log)"
    )


def test_failure_without_log_tells_what_criu_printed(fake: Starter, options: DumpOptions) -> None:
    criu = fake([*VERSION, {"expect": "DUMP"}, {"stderr": "warming up\nno such thing\n"}, FAILED])
    with pytest.raises(CriuRequestFailed, match="criu dump failed: no such thing"):
        criu.dump(options)


def test_an_error_without_a_type_is_a_failure(fake: Starter, options: DumpOptions) -> None:
    empty = {"type": "EMPTY", "success": False, "cr_errmsg": "Invalid req"}
    criu = fake([*VERSION, {"expect": "DUMP"}, {"reply": empty}])
    with pytest.raises(CriuRequestFailed, match="Invalid req"):
        criu.dump(options)


DEATHS: dict[str, tuple[list[Step], str]] = {
    "before the request": ([{"signal": 9}], "was killed by SIGKILL"),
    "after the request": ([{"expect": "DUMP"}, {"signal": 9}], "was killed by SIGKILL"),
    "after a notification": (
        [{"expect": "DUMP"}, {"notify": "pre-dump"}, {"exit": 5}],
        "exited with status 5",
    ),
    "with the socket in a child": (
        [{"expect": "DUMP"}, {"fork_and_die": True}],
        "exited with status 3",
    ),
    "with last words": (
        [{"expect": "DUMP"}, {"stderr": "BUG at page-pipe.c:5\n"}, {"signal": 6}],
        "was killed by SIGABRT during dump: BUG at page-pipe.c:5",
    ),
    "hung up": ([{"expect": "DUMP"}, {"close": True}, {"linger": True}], "closed the conversation"),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_death_is_an_error_at_once(fake: Starter, options: DumpOptions, moment: str) -> None:
    steps, message = DEATHS[moment]
    criu = fake([*VERSION, *steps])
    began = time.monotonic()
    with pytest.raises(CriuDied, match=message):
        criu.dump(options)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("handler_raises", [False, True])
def test_death_during_a_hold(
    fake: Starter, options: DumpOptions, tmp_path: Path, handler_raises: bool
) -> None:
    criu = fake([*VERSION, {"expect": "DUMP"}, {"notify": "post-dump"}, DUMPED])

    def kill(_: Notification) -> None:
        os.kill(criu.pid, signal.SIGKILL)
        while criu.alive():
            time.sleep(0.01)
        if handler_raises:
            raise LookupError("I noticed")

    expected = LookupError if handler_raises else CriuDied
    with pytest.raises(expected) as caught:
        criu.dump(options, kill)
    if handler_raises:
        assert "was killed by SIGKILL" in caught.value.__notes__[0]


BAD_REPLIES: dict[str, tuple[Step, str]] = {
    "garbage": ({"raw": "ff" * 40}, "no message of rpc.proto"),
    "required fields missing": ({"raw": "08"}, "no message of rpc.proto"),
    "over-long": ({"zeros": 2_000_000}, "a message of 2000000 bytes"),
    "of another request": ({"reply": {"type": "RESTORE", "success": True}}, "an answer to RESTORE"),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_a_bad_reply_is_refused(fake: Starter, options: DumpOptions, kind: str) -> None:
    step, message = BAD_REPLIES[kind]
    criu = fake([*VERSION, {"expect": "DUMP"}, step])
    with pytest.raises(BadReply, match=message):
        criu.dump(options)


def test_too_many_descriptors_are_refused(fake: Starter, options: DumpOptions) -> None:
    before = len(os.listdir("/proc/self/fd"))
    criu = fake([*VERSION, {"expect": "DUMP"}, {"notify": "pre-dump", "fds": 40}])
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BadReply, match="more than 16 descriptors"):
        criu.dump(options)
    assert len(os.listdir("/proc/self/fd")) == opened > before


def test_nothing_more_is_asked_after_a_dump(fake: Starter, options: DumpOptions) -> None:
    criu = fake([*VERSION, {"expect": "DUMP"}, DUMPED])
    criu.dump(options)
    with pytest.raises(CriuError, match="takes no further request"):
        criu.features()


def test_closing_hangs_up_and_reaps(fake: Starter) -> None:
    criu = fake([{"expect": "VERSION"}])
    pid = criu.pid
    criu.close()
    criu.close()
    assert not criu.alive()
    assert not Path(f"/proc/{pid}").exists()


def test_no_descriptor_is_left(fake: Starter, options: DumpOptions) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with fake([*VERSION, {"expect": "DUMP"}, DUMPED]) as criu:
        criu.dump(options)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CriuNotFound, match="no criu program at /no/such/criu; run `make setup`"):
        find_criu("/no/such/criu")
    monkeypatch.setenv("MIGRATOR_CRIU", str(tmp_path))
    with pytest.raises(CriuNotFound, match=str(tmp_path)):
        find_criu()


def test_a_program_that_cannot_be_executed_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "criu"
    program.write_text("not a program")
    program.chmod(0o755)
    with pytest.raises(CriuNotFound, match=r"that can be started: .*Exec format error"):
        Criu.start(program)
