"""The command line's beginning and end: a fast start, one line and an exit code for every error.

Only this module prints errors and chooses exit codes (docs/commands.md has their table). What is
imported here is part of every command's time: the command comes when it is known, and click when
a command line is not plainly right (migrator.commands._options).
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import click

FAILED = 1
BUG = 70
INTERRUPTED = 130
OUTPUT_CLOSED = 141
#: exec passes on the status of its process, so what fails before is told apart, but for a wrong
#: command line: as runc does
FAILED_OF = {"exec": 255}

COMPLETION_VARIABLE = "_MIGRATOR_COMPLETE"


def main() -> NoReturn:
    """The `migrator` program."""
    # Imports make many objects and no garbage: 6 of 66 ms were spent on looking for some.
    gc.set_threshold(100_000)
    _fill_standard_descriptors()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are loaded
        code = INTERRUPTED
    _leave(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    from migrator import log  # noqa: PLC0415 - lazy: 5 ms
    from migrator.commands._globals import OPTIONS, apply  # noqa: PLC0415 - lazy: 1 ms
    from migrator.commands._options import Misunderstood, read  # noqa: PLC0415 - lazy: 1 ms
    from migrator.commands._verb import find  # noqa: PLC0415 - lazy: 1 ms

    if instruction := os.environ.get(COMPLETION_VARIABLE):
        return _complete(instruction)
    words = list(arguments) or ["--help"]
    name = ""
    log.configure()
    try:
        try:
            said, left = read(OPTIONS, words, interspersed=False)
            name = left[0] if left else ""
            verb = find(name)
            values = verb.read(left[1:])
        except Misunderstood:
            from migrator.commands._group import invoke  # noqa: PLC0415 - lazy: imports click

            return invoke(words)
        return verb(apply(**said), values)
    except KeyboardInterrupt as exc:
        _print_error("; ".join(("interrupted", *map(str, exc.args))))
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - the one handler: every error gets its line and code
        return _report(exc, name)


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete  # noqa: PLC0415 - lazy: 40 ms

    from migrator.commands._group import group  # noqa: PLC0415 - imports click

    return shell_complete(group, {}, "migrator", COMPLETION_VARIABLE, instruction)


def _report(exc: Exception, command: str) -> int:
    if isinstance(exc, BrokenPipeError) and _nobody_reads_our_output():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    message, code = described(exc, FAILED_OF.get(command, FAILED))
    _print_error(message, exc)
    return code


def _print_error(message: str, exc: Exception | None = None) -> None:
    from criu_rpc.logger import Logger  # noqa: PLC0415 - lazy: 1 ms

    logger = Logger(__name__)
    logger.error("%s", message, extra={"bare": getattr(exc, "bare", False)})
    if exc is not None:
        logger.debug("raised here:", exc_info=exc)


def described(exc: Exception, failed: int = FAILED) -> tuple[str, int]:
    """The one line for an error, and the exit code; *failed*: of one that has none of its own."""
    if format_message := getattr(exc, "format_message", None):  # click's: a wrong command line
        return _usage(format_message(), getattr(exc, "ctx", None)), FAILED
    notes = "".join(f"; {note}" for note in getattr(exc, "__notes__", ()))
    code = getattr(exc, "exit_code", None)
    if isinstance(code, int):
        return f"{exc}{notes}", failed if code == FAILED else code
    if isinstance(exc, OSError) and exc.strerror:
        where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        return f"{where}{exc.strerror}{notes}", failed
    kind = type(exc).__name__
    return f"internal error: {kind}: {exc}{notes} (--debug shows where; please report it)", BUG


def _usage(message: str, ctx: click.Context | None) -> str:
    text = message.rstrip(".")
    hint = f" (see `{ctx.command_path} --help`)" if ctx else ""
    return f"{text[:1].lower()}{text[1:]}{hint}"


def _fill_standard_descriptors() -> None:
    """Open /dev/null where one of 0 to 2 is closed: no container gets a file of ours for it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _nobody_reads_our_output() -> bool:
    """Whether standard output is a pipe whose reader has gone, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave(code: int) -> NoReturn:
    """End at once: to take the interpreter apart costs 10 ms, and disturbs threads at work."""
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            code = code or OUTPUT_CLOSED
    os._exit(code)
