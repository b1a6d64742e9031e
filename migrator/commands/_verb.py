"""A command as its module declares it: a function, and what it takes from the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from migrator.commands import COMMANDS, load
from migrator.commands._options import Argument, Misunderstood, Option, Parameter, read

if TYPE_CHECKING:
    from migrator.commands._globals import Settings

Function = Callable[..., Any]


class Verb:
    """The command of a module."""

    __slots__ = ("function", "parameters", "passes_arguments")

    def __init__(self, function: Function, *, passes_arguments: bool) -> None:
        self.function = function
        self.parameters: list[Parameter] = getattr(function, "parameters", [])
        self.passes_arguments = passes_arguments

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """The values that *words* give it. Raises Misunderstood for what is not plainly right."""
        values, left = read(self.parameters, words, interspersed=not self.passes_arguments)
        if left:
            raise Misunderstood
        return values

    def __call__(self, settings: Settings, values: dict[str, Any]) -> int:
        """Carry it out; the exit code."""
        if getattr(self.function, "wants_settings", False):
            return self.function(settings, **values) or 0
        return self.function(**values) or 0


def find(name: str) -> Verb:
    """The command of that name. Raises Misunderstood for none, and one with subcommands."""
    command = load(name) if name in COMMANDS else None
    if not isinstance(command, Verb):
        raise Misunderstood
    return command


def verb(*, passes_arguments: bool = False) -> Callable[[Function], Verb]:
    """Make a function the command of its module; its docstring is the help.

    passes_arguments: what follows the first argument belongs to another program, options and all.
    """
    return lambda function: Verb(function, passes_arguments=passes_arguments)


def taking(*parameters: Parameter) -> Callable[[Function], Function]:
    """Have a command take *parameters*, before those that it has already."""

    def add(function: Function) -> Function:
        function.parameters = [*parameters, *getattr(function, "parameters", ())]  # type: ignore[attr-defined]
        return function

    return add


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """Have a command take an option."""
    return taking(Option(*names, **settings))


def argument(name: str, **settings: Any) -> Callable[[Function], Function]:
    """Have a command take an argument."""
    return taking(Argument(name, **settings))


def pass_settings(function: Function) -> Function:
    """Give a command the Settings as its first argument."""
    function.wants_settings = True  # type: ignore[attr-defined]
    return function
