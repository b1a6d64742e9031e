"""A container with a terminal moves; who listens at the destination has its other end there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any

import pytest

from migrator.lab.host import Host
from tests.faults.moves import Move
from tests.lab.hosts import NEEDED, TwoHosts, make_bundle, nothing_left_behind, on_machine
from tests.terminals import ConsoleSocket, Screen
from tests.waiting import eventually

pytestmark = NEEDED

NAME = "screen"
SOCKET = "/srv/console"
SHELL = "PS1='> ' exec sh -i"
# What it says stands nowhere in its own text, which a shell shows too.
LOOPING = 'trap "echo c$((7 * 7))ght; exit" INT; while :; do echo t$((40 + 2))k; sleep 0.1; done'
WRITING = "read x; n=0; while :; do n=$((n+1)); echo $n; done"
MODES = ("auto", "hybrid", "pre-copy", "post-copy", "cold")
RUN = (
    "exec </dev/null >/dev/null 2>&1; "
    'exec migrator run -d --console-socket "$1" --network "$2" -b "$3" "$4"'
)


class Shown:
    """A container with a terminal on the source; `screen` is its other end, where it runs now."""

    def __init__(self, hosts: TwoHosts, script: str, stack: ExitStack) -> None:
        self.hosts, self._stack = hosts, stack
        bundle = make_bundle(hosts.source, NAME, "sh", "-c", script)
        bundle.update(process={"terminal": True, "consoleSize": {"height": 33, "width": 77}})
        network = f"type=veth,name=eth0,bridge={hosts.source.bridge},address=10.77.7.7/16"
        with listening(hosts.source) as console:
            hosts.source.run("sh", "-c", RUN, "sh", SOCKET, network, f"/srv/{NAME}", NAME)
            self.screen = self._received(console)

    def migrate(self, *options: str) -> dict[str, Any]:
        """Move it; the report. The screen is the new one."""
        *before, destination = self.hosts.to_destination
        with listening(self.hosts.destination) as console:
            done = self.hosts.source.run(
                "migrator", "migrate", "--json", "--console-socket", SOCKET, *options,
                *before, NAME, destination,
            )  # fmt: skip
            self.screen = self._received(console)
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def _received(self, console: ConsoleSocket) -> Screen:
        path, screen = console.receive()
        assert path == "/dev/pts/0"
        return self._stack.enter_context(screen)

    def answers(self) -> bool:
        """Whether its shell still does what is typed."""
        self.screen.type("echo $((40 + 2))\n")
        return self.screen.shows("42")


def listening(host: Host) -> ConsoleSocket:
    return ConsoleSocket(on_machine(host, SOCKET))


@contextmanager
def shown(hosts: TwoHosts, script: str) -> Iterator[Shown]:
    with ExitStack() as stack:
        yield Shown(hosts, script, stack)


@pytest.mark.parametrize("mode", MODES)
def test_a_shell_keeps_its_jobs_its_settings_and_its_size(two_hosts: TwoHosts, mode: str) -> None:
    with shown(two_hosts, SHELL) as it:
        assert it.screen.shows("> ")
        it.screen.type(f"sh -c '{LOOPING}'\n")
        assert it.screen.shows("t42k")
        it.screen.type("\x1a")
        assert it.screen.shows("Stopped")
        it.screen.resize(50, 132)
        it.screen.type("stty intr '^B'; echo d$((0))ne\n")
        assert it.screen.shows("d0ne\r\n> ")
        assert it.migrate("--mode", mode)["outcome"] == "migrated"
        it.screen.type("stty size; stty -a | grep -o 'intr = ..'; jobs\n")
        assert it.screen.shows("50 132")
        assert it.screen.shows("intr = ^B")
        assert it.screen.shows("Stopped")
        it.screen.type("fg\n")
        assert it.screen.shows("t42k")
        it.screen.type("\x02")
        assert it.screen.shows("c49ght")
        assert it.screen.shows("> ")
        assert it.answers()


def test_a_full_screen_program_goes_on_where_it_was(two_hosts: TwoHosts) -> None:
    with shown(two_hosts, "vi /tmp/text; stty -a; exec sh -i") as it:
        assert it.screen.shows("- /tmp/text")
        it.screen.type("ione\r")
        assert it.screen.shows("one")
        it.migrate()
        it.screen.type("two\x1b")
        assert it.screen.shows("- /tmp/text"), "it is in its command mode"
        it.screen.type(":x\r")
        assert it.screen.shows("speed"), "it has ended; its settings are those from before"
        assert it.screen.shows(" icanon ")
        written = on_machine(two_hosts.destination, f"/srv/{NAME}") / "rootfs/tmp/text"
        assert written.read_text() == "one\ntwo\n"


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_no_output_is_lost_or_said_twice(two_hosts: TwoHosts, read: bool) -> None:
    with shown(two_hosts, f"stty -echo; echo ready; {WRITING}") as it:
        assert it.screen.shows("ready\r\n")
        it.screen.type("\n")
        here = it.screen
        reader = Thread(target=here.rest, args=(60,))
        if read:
            reader.start()
        it.migrate()
        if not read:
            reader.start()
        reader.join()
        last = len(here.text.splitlines()) + 100
        assert it.screen.shows(f"\r\n{last}\r\n")
        # what is shown is forgotten up to the line that was waited for
        assert here.text.splitlines()[:3] == ["1", "2", "3"]


def test_who_was_there_is_hung_up_on(two_hosts: TwoHosts) -> None:
    with shown(two_hosts, SHELL) as it:
        here = it.screen
        it.migrate()
        assert "> " in here.rest()
        assert it.answers()


@pytest.fixture
def staying(two_hosts: TwoHosts) -> Iterator[Shown]:
    """It goes on at the source afterwards, in its terminal, and nothing was left."""
    with shown(two_hosts, SHELL) as it:
        assert it.screen.shows("> ")
        two_hosts.destination.run("migrator", "list")
        with nothing_left_behind(two_hosts.source, two_hosts.destination):
            yield it
        assert it.answers()


def refused(it: Shown, *options: str) -> str:
    """The one line of a migration that preflight refuses."""
    *before, destination = it.hosts.to_destination
    done = it.hosts.source.run(
        "migrator", "migrate", *options, *before, NAME, destination, check=False
    )
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_without_a_console_socket_it_is_refused(staying: Shown) -> None:
    assert "give --console-socket PATH, a unix socket there" in refused(staying)


def test_a_console_socket_that_is_not_there(staying: Shown) -> None:
    said = refused(staying, "--console-socket", "/srv/none")
    assert "console socket /srv/none: it is not there" in said


def test_a_console_socket_at_which_nobody_listens(staying: Shown) -> None:
    with listening(staying.hosts.destination) as console:
        console.close()
        said = refused(staying, "--console-socket", SOCKET)
    assert f"console socket {SOCKET}: connection refused: start who is to have" in said


@pytest.mark.parametrize(
    ("phase", "said"),
    [("arm", "nobody listens any more"), ("send images", "sending the terminal to /srv/console")],
)
def test_one_who_goes_away_meanwhile(staying: Shown, phase: str, said: str) -> None:
    with listening(staying.hosts.destination) as console:
        options = ("--console-socket", SOCKET)
        move = Move(staying.hosts, "source", phase, *options, container=NAME)
        move.wait_until_stopped()
        console.close()
        move.go_on()
        status, why = move.finish()
    assert status == 5, why
    assert said in why
    assert eventually(staying.answers)


def test_a_console_socket_for_no_terminal(two_hosts: TwoHosts) -> None:
    make_bundle(two_hosts.source, NAME, "sleep", "1000")
    network = f"type=veth,name=eth0,bridge={two_hosts.source.bridge},address=10.77.7.7/16"
    script = 'exec </dev/null >/dev/null 2>&1; exec migrator run -d --network "$1" -b "$2" "$3"'
    two_hosts.source.run("sh", "-c", script, "sh", network, f"/srv/{NAME}", NAME)
    *before, destination = two_hosts.to_destination
    command = ("migrator", "migrate", "--console-socket", SOCKET, *before, NAME, destination)
    done = two_hosts.source.run(*command, check=False)
    assert done.returncode == 3
    assert "--console-socket: it has no terminal" in done.stderr
