"""The command line without a container: parsing, help, errors and their exit codes."""

import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

import criu_rpc
import migrator
import runtime
from migrator import cli
from migrator.commands import COMMANDS, load
from migrator.commands._command import of_verb
from migrator.commands._group import group
from migrator.commands._options import (
    Argument,
    Misunderstood,
    Option,
    Parameter,
    choice,
    integer,
    read,
)
from migrator.commands._verb import Verb, taking, verb
from migrator.commands.kill import signal_number
from migrator.commands.list import aligned
from migrator.commands.ps import rows_of
from migrator.errors import UsageProblem

DOCS = Path(__file__).parents[2] / "docs/commands.md"


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def run(*arguments: str) -> int:
    return cli.run(arguments)


def commands(*names: str) -> Iterator[tuple[str, click.Command]]:
    """The commands called *names* (by default all) and their subcommands, by full name."""
    context = click.Context(group)
    for name in names or COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", found) for sub, found in command.commands.items())


def test_the_help_lists_every_command_with_its_line_and_imports_none_of_them() -> None:
    program = (
        "import sys\n"
        "from migrator import cli\n"
        "cli.run(['--help'])\n"
        "loaded = [m for m in sys.modules if m.startswith('migrator.commands.')]\n"
        "print(*sorted(loaded), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", done.stdout, re.M)
    assert not {f"migrator.commands.{name}" for name in COMMANDS} & set(done.stderr.split())


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr().out.startswith("NAME:\n  migrator, a drop-in for runc - Open")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"NAME:\n  migrator {name} - ")


@pytest.mark.parametrize("words", [(), ("run",), ("lab", "up")])
def test_help_shows_what_its_option_shows(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("help", *words) == 0
    shown = capsys.readouterr().out
    assert run(*words, "--help") == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("words", "why"), [(("nope",), "no such command"), (("run", "x"), "run has no commands")]
)
def test_help_for_what_is_not_there_is_refused(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("help", *words) == 1
    assert why in capsys.readouterr().err


def test_the_version_names_the_program_on_its_first_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--version") == 0
    lines = capsys.readouterr().out.splitlines()
    of_runc = r"a drop-in for runc version \d+\.\d+\.\d+"
    assert re.fullmatch(rf"migrator version \d+\.\d+\.\d+, {of_runc}", lines[0])
    assert re.fullmatch(r"commit: (unknown|[0-9a-f]{40})", lines[1])
    assert re.fullmatch(r"spec: \d+\.\d+\.\d+", lines[2])
    assert lines[3].startswith("criu: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["stat"],
            "No help topic for 'stat': did you mean state or start? (see `migrator --help`)",
        ),
        (["xyzzy"], "no such command: No help topic for 'xyzzy' (see `migrator --help`)"),
        (["state"], "missing argument 'CONTAINER' (see `migrator state --help`)"),
        (["start", "a", "b"], "got unexpected extra argument"),
        (["state", "--bogus"], "no such option"),
        # what Podman looks for, to know whether it may restore into a pod
        (["restore", "--lsm-mount-context"], "flag needs an argument: --lsm-mount-context"),
        (["--log-format", "xml", "list"], "'xml' is not one of 'text', 'json'"),
        (["restore", "--no-pivot", "a"], "--no-pivot cannot be had: CRIU changes the root"),
        (["checkpoint", "--lazy-pages", "a"], "--lazy-pages needs --page-server"),
        (["checkpoint", "--page-server", "host", "a"], "'host' is not of the form ADDRESS:PORT"),
        (["create", "--preserve-fds", "-1", "a"], "-1 is not in the range x>=0"),
        (["kill", "a", "FOO"], "'FOO' is no signal: give a name such as TERM, or a number"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_stderr(
    arguments: list[str], message: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", root, *arguments) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("migrator: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize("name", ["state", "start", "kill", "pause", "resume", "delete", "ps"])
def test_an_unknown_container_is_named(
    name: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", root, name, "none") == 1
    assert capsys.readouterr().err == (
        f"migrator: container none does not exist below {root} (`migrator list` shows what does)\n"
    )


def test_exec_tells_its_own_failure_from_that_of_the_process(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", root, "exec", "none", "true") == 255
    assert "container none does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bogus", "exec", "none", "true"],
        ["--log-format", "xml", "exec", "none", "true"],
        ["exec", "--bogus", "none", "true"],
        ["exec"],
    ],
)
def test_a_wrong_command_line_has_the_same_code_for_exec_as_for_all(
    arguments: list[str], root: str
) -> None:
    assert run("--root", root, *arguments) == 1


def test_deleting_by_force_what_is_not_there_is_no_error(root: str) -> None:
    assert run("--root", root, "delete", "--force", "none") == 0


def test_an_error_is_in_the_log_file_as_its_readers_want_it(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    assert run("--root", root, "--log", str(path), "--log-format", "json", "state", "none") == 1
    record = json.loads(path.read_text())
    assert record["level"] == "error"
    assert record["msg"].startswith("container none does not exist")
    assert capsys.readouterr().err.startswith("migrator: container none does not exist")


def test_a_log_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--log", "/none/log", "list") == 1
    assert capsys.readouterr().err == "migrator: /none/log: No such file or directory\n"


def test_debugging_shows_where_an_error_comes_from(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", root, "--debug", "state", "none") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "NoSuchContainer" in shown


def test_a_list_below_a_root_that_is_not_there_is_refused(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", root, "list") == 1
    assert f"the state root {root} does not exist" in capsys.readouterr().err


def test_long_options_may_have_one_dash(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(root).mkdir()
    assert run("-root", root, "-log-format=json", "list", "-format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []


REST = Argument("rest", many=True)
BUNDLE = Option("-b", "--bundle")
DETACH = Option("--detach/--attach", flag=True)
QUIET = Option("-q", "--quiet", flag=True)
ENV = Option("-e", "--env", multiple=True)
LEVEL = Option("--level", kind=integer(at_least=1), default=3)
FORM = Option("form", "--format", kind=choice("table", "json"), default="table")


def declared(*parameters: Parameter, **how: bool) -> Verb:
    return verb(**how)(taking(*parameters)(lambda **values: 0))


def by_click(parameters: tuple[Parameter, ...], words: Sequence[str], **how: bool) -> Any:
    """What click makes of *words*."""
    command = of_verb("command", declared(*parameters, **how))
    return command.make_context("command", list(words)).params


def given(*words: str, passes_arguments: bool = False) -> dict[str, Any]:
    """What a command with one option of each kind makes of *words*, but for the defaults.

    Click says the same, whether `read` leaves it to it or not.
    """
    parameters = (REST, BUNDLE, DETACH, QUIET, ENV, LEVEL, FORM)
    said: dict[str, Any] = by_click(parameters, words, passes_arguments=passes_arguments)
    with suppress(Misunderstood):
        assert (said, []) == read(parameters, words, interspersed=not passes_arguments)
    return {name: said[name] for name in said if said[name] not in (None, False, (), 3, "table")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-bundle", "/b", "x"], {"bundle": "/b", "rest": ("x",)}),
        (["-bundle=/b", "-detach"], {"bundle": "/b", "detach": True}),
        (["-b", "-detach", "x"], {"bundle": "-detach", "rest": ("x",)}),
        (["-b/b", "x", "-detach"], {"bundle": "/b", "detach": True, "rest": ("x",)}),
        (["-eA=1", "-e", "B=2"], {"env": ("A=1", "B=2")}),
        (["-quiet=true"], {"quiet": True}),
        (["--quiet", "--quiet=false"], {}),
        (["-q", "-q=F", "-quiet=T"], {"quiet": True}),
        (["-b", "--quiet", "--quiet", "--quiet=0", "x"], {"bundle": "--quiet", "rest": ("x",)}),
        (["--detach", "--detach=false"], {}),
        (["-b=/b", "-e=A=1"], {"bundle": "/b", "env": ("A=1",)}),
        (["--detach", "--attach"], {}),
        (["-q", "--detach"], {"quiet": True, "detach": True}),
        (["-b", "--quiet=true"], {"bundle": "--quiet=true"}),
        (["--", "-detach"], {"rest": ("-detach",)}),
        (["x", "--", "-bundle"], {"rest": ("x", "-bundle")}),
        (["x", "-", "", "--bundle="], {"rest": ("x", "-", ""), "bundle": ""}),
        (["--level", "7", "-format=json"], {"level": 7, "form": "json"}),
        (["-b", "1", "-b", "2"], {"bundle": "2"}),
    ],
)
def test_one_dash_is_read_as_two_where_it_is_an_option(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    assert given(*arguments) == expected


def test_the_arguments_of_another_program_are_left_as_they_are() -> None:
    found = given("-q", "id", "sh", "-bundle", "--", "--env", "-c", passes_arguments=True)
    assert found == {"quiet": True, "rest": ("id", "sh", "-bundle", "--", "--env", "-c")}


@pytest.mark.parametrize(
    "words",
    [
        *(["--bogus"], ["-qx"], ["-b"], ["--level", "x"], ["--level=0"], ["--format", "xml"]),
        *(["--quiet=maybe"], ["--attach=true"], ["--help"], ["--no-pivot"]),
        *(["--bundl", "/b"],),
    ],
)
def test_what_is_wrong_or_unusual_is_left_to_click(words: list[str]) -> None:
    refused = Option("--no-pivot", flag=True, refused="is not supported yet")
    with pytest.raises(Misunderstood):
        read((REST, BUNDLE, DETACH, QUIET, ENV, LEVEL, FORM, refused), words)


def test_what_is_switched_off_is_not_as_if_nothing_was_said() -> None:
    for words, expected in (([], None), (["--detach=false"], False), (["--attach"], False)):
        assert read((DETACH,), words)[0] == by_click((DETACH,), words) == {"detach": expected}


def test_a_default_that_cannot_be_is_no_fault_of_ours(
    root: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "checkpoint").touch()
    monkeypatch.chdir(tmp_path)
    assert run("--root", root, "checkpoint", "none") == 1
    assert "checkpoint' is a file" in capsys.readouterr().err


def test_arguments_that_are_missing_or_too_many_are_left_to_click() -> None:
    one = declared(Argument("one"), Argument("other", default="x"))
    assert one.read(["a"]) == {"one": "a", "other": "x"}
    assert one.read(["a", "b"]) == {"one": "a", "other": "b"}
    for words in ([], ["a", "b", "c"]):
        with pytest.raises(Misunderstood):
            one.read(words)
    with pytest.raises(Misunderstood):
        declared(Option("--listen", required=True)).read([])


def test_what_clients_ask_is_read_without_click_and_logging(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from migrator import cli\n"
        "cli._print_error = print  # errors are logged: no matter here\n"
        f"cli.run(['--root', {str(tmp_path)!r}, '--log-format=json', *sys.argv[1:]])\n"
        "heavy = {'click', 'inspect', 'logging', 'rich', 'pyroute2', 'paramiko'}\n"
        "assert not heavy & sys.modules.keys()\n"
    )
    config = "create --bundle . --pid-file p --no-new-keyring c", "run -d c", "start c", "state c"
    for words in (*config, "kill --all c 9", "delete -f c", "exec -d c true", "list", "pause c"):
        subprocess.run([sys.executable, "-c", program, *words.split()], check=True)


def test_every_commands_defaults_are_those_that_click_finds() -> None:
    for name in COMMANDS:
        command = load(name)
        if not isinstance(command, Verb):
            continue
        words = ["x"] * sum(
            isinstance(each, Argument) and not (each.many or each.default)
            for each in command.parameters
        )
        with suppress(Misunderstood, click.UsageError):
            values = of_verb(name, command).make_context(name, list(words)).params
            assert command.read(words) == values, name


def test_a_refused_option_says_so_only_when_it_is_given() -> None:
    refused = Option("-t", "--tty", flag=True, refused="is not supported yet: no terminal")
    assert by_click((refused,), []) == {}
    with pytest.raises(click.UsageError, match="--tty is not supported yet: no terminal"):
        by_click((refused,), ["-t"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGKILL", signal.SIGKILL),
        ("sigusr1", signal.SIGUSR1),
        ("9", 9),
        ("0", 0),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
    ],
)
def test_signals_are_names_and_numbers(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "FOO", "_DFL", "999", "-9", "RTMIN+99", "TERM+x", "²"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no signal"):
        signal_number(text)


def test_the_table_is_aligned_as_that_of_runc() -> None:
    rows = [("ID", "PID", "OWNER"), ("a-rather-long-name", "7", "root")]
    assert list(aligned(rows)) == [
        "ID                   PID         OWNER",
        "a-rather-long-name   7           root",
    ]


def test_the_lines_of_ps_are_those_of_the_containers_processes() -> None:
    listing = ["UID   PID CMD", "root    1 init", "root   17 sleep 17", "root  117 sh"]
    assert list(rows_of(listing, [17])) == ["UID   PID CMD", "root   17 sleep 17"]


def test_a_ps_without_process_ids_is_refused() -> None:
    with pytest.raises(UsageProblem, match="no column PID"):
        list(rows_of(["CMD", "sh"], [17]))


def test_a_spec_is_written_once_and_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.spec.reading import load  # noqa: PLC0415 - of this test alone

    (tmp_path / "rootfs").mkdir()
    assert run("spec", "--bundle", str(tmp_path)) == 0
    assert load(tmp_path).process.args == ("sh",)
    assert run("spec", "--bundle", str(tmp_path)) == 1
    assert "config.json exists: remove it first" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell) == 0
    assert "_MIGRATOR_COMPLETE" in capsys.readouterr().out


def completions(*words: str) -> list[str]:
    """What bash would offer for the last of *words*."""
    asked = {
        "_MIGRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("migrator", *words)),
        "COMP_CWORD": str(len(words)),
    }
    argv = [sys.executable, "-m", "migrator"]
    done = subprocess.run(argv, env=os.environ | asked, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_containers_are_completed(tmp_path: Path) -> None:
    for name in ("redis1", "redis2", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    assert completions("sta") == ["start", "state"]
    assert completions("delete", "--fo") == ["--force"]
    assert completions("--root", str(tmp_path), "kill", "red") == ["redis1", "redis2"]


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """For what is started here: a shell has its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_ends_with_its_own_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")  # opening it waits for a reader, who never comes
    argv = [sys.executable, "-m", "migrator", "--log", str(tmp_path / "log"), "list"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as child:
        wait_until_asleep(child.pid)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert said == "migrator: interrupted\n"


def wait_until_asleep(pid: int) -> None:
    """Until the process has slept in ten looks in a row: it waits, and for no disk."""
    looks = 0
    while looks < 10:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        looks = looks + 1 if state == "S" else 0
        time.sleep(0.01)


def test_a_fault_of_ours_says_so() -> None:
    message, code = cli.described(KeyError("x"))
    assert message == "internal error: KeyError: 'x' (--debug shows where; please report it)"
    assert code == 70


def test_notes_of_an_error_are_part_of_its_line() -> None:
    error = UsageProblem("no")
    error.add_note("undoing failed too: disk full")
    assert cli.described(error) == ("no; undoing failed too: disk full", 1)


def test_an_error_of_the_system_names_the_file() -> None:
    assert cli.described(PermissionError(13, "Permission denied", b"/x")) == (
        "/x: Permission denied",
        1,
    )


def test_a_reader_that_has_gone_is_no_error_to_speak_of() -> None:
    program = f"{sys.executable} -m migrator --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert not done.stderr


def test_short_commands_import_nothing_heavy(root: str) -> None:
    program = (
        "import sys\n"
        "from migrator import cli\n"
        f"cli.run(['--root', {root!r}, 'state', 'none'])\n"
        "heavy = 'rich pyroute2 paramiko pycriu google asyncio subprocess'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n"


def errors() -> dict[str, int]:
    """Every error class with an exit code, by its name."""
    found = {}
    for package in (migrator, runtime, criu_rpc):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("errors"):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                if (
                    isinstance(value, type)
                    and issubclass(value, Exception)
                    and value is not Exception
                ):
                    found[name] = value.exit_code
    return found


def documented_codes() -> dict[str, int]:
    """The error classes that the table of exit codes names, and the code of each."""
    rows = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", DOCS.read_text(), re.M)
    return {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    special = {name: code for name, code in errors().items() if code != cli.FAILED}
    assert documented_codes() == special


def test_the_codes_of_the_command_line_itself_are_documented() -> None:
    text = DOCS.read_text()
    for code in (0, cli.FAILED, cli.BUG, cli.INTERRUPTED, cli.OUTPUT_CLOSED, cli.FAILED_OF["exec"]):
        assert re.search(rf"^\| {code} \|", text, re.M), code


@pytest.mark.parametrize("chosen", sorted(COMMANDS))
def test_every_option_is_documented(chosen: str) -> None:
    sections = re.split(r"^### ", DOCS.read_text(), flags=re.M)
    documented = {section.partition("\n")[0]: section for section in sections}
    for name, command in commands(chosen):
        section = documented[f"migrator {name}"]
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        for option in options:
            longest = max(option.opts, key=len)
            assert option.hidden or f"`{longest}" in section, f"{name} {longest}"


def test_nothing_is_documented_that_is_not_there() -> None:
    headings = re.findall(r"^### migrator (.+)$", DOCS.read_text(), re.M)
    assert sorted(headings) == sorted(name for name, _ in commands())
