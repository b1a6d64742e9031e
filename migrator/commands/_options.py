"""What commands take: options and arguments as data, and a reader for what is plainly right.

A container runtime is started for every step of a container's life, and click alone takes longer
to import than most of these steps. So commands declare what they take here, and `read` reads a
command line that has nothing wrong or unusual. Help, completion and every complaint are click's,
which gets the same declarations (migrator.commands._command).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

#: What a flag may be given as a value: `--detach=false`, as Go programs take it (ParseBool).
SWITCHED = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)


class Kind:
    """What a text has to be: *convert* makes the value or raises ValueError.

    as_click: the same as click's own type, for its help and complaints; by default *convert* alone.
    """

    __slots__ = ("as_click", "convert")

    def __init__(
        self,
        convert: Callable[[str], Any],
        as_click: Callable[[], click.ParamType[Any]] | None = None,
    ) -> None:
        self.convert = convert
        self.as_click = as_click


def _path(*, file: bool, directory: bool) -> Kind:
    def convert(text: str) -> Path:
        path = Path(text)
        if (directory and not file and path.is_file()) or (not directory and path.is_dir()):
            raise ValueError(f"{text!r} is a {'file' if directory else 'directory'}")
        return path

    def as_click() -> click.ParamType[Any]:
        import click

        return click.Path(path_type=Path, file_okay=file, dir_okay=directory, readable=False)

    return Kind(convert, as_click)


TEXT = Kind(str)
FILE = _path(file=True, directory=False)
DIRECTORY = _path(file=False, directory=True)
PATH = _path(file=True, directory=True)


def integer(at_least: int | None = None) -> Kind:
    """A whole number."""

    def convert(text: str) -> int:
        if (number := int(text)) < (number if at_least is None else at_least):
            raise ValueError(f"{text} is not in the range x>={at_least}")
        return number

    def as_click() -> click.ParamType[Any]:
        import click

        return click.INT if at_least is None else click.IntRange(min=at_least)

    return Kind(convert, as_click)


def choice(*names: str) -> Kind:
    """One of *names*."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    def as_click() -> click.ParamType[Any]:
        import click

        return click.Choice(names)

    return Kind(convert, as_click)


class Argument:
    """What is given by its place; *many*: all that is left, as a tuple."""

    __slots__ = ("complete", "default", "kind", "many", "metavar", "name")

    def __init__(
        self,
        name: str,
        *,
        metavar: str | None = None,
        kind: Kind = TEXT,
        default: str | None = None,
        many: bool = False,
        complete: Callable[[Path], Iterable[str]] | None = None,
    ) -> None:
        """default: for one that may be left out; complete: what it may be, by the state root."""
        self.name, self.metavar, self.kind, self.default = name, metavar, kind, default
        self.many, self.complete = many, complete


class Option:
    """What is given by name: a value of a kind, or for a *flag* the value True."""

    __slots__ = (
        "default",
        "flag",
        "help",
        "kind",
        "metavar",
        "multiple",
        "name",
        "names",
        "off_names",
        "refused",
        "required",
        "show_default",
        "unused",
        "value",
    )

    def __init__(
        self,
        *names: str,
        kind: Kind = TEXT,
        flag: bool = False,
        value: Any = True,
        default: Any = None,
        multiple: bool = False,
        required: bool = False,
        metavar: str | None = None,
        show_default: bool = False,
        help: str = "",
        unused: bool = False,
        refused: str = "",
    ) -> None:
        """As click's options have it, but for these.

        value: what a flag stands for; unused: of runc's, taken without any effect; refused: why it
        is not carried out. Those two are not in the help, and not passed on.
        """
        self.name, self.names, self.off_names = _named(names)
        self.kind, self.flag, self.value, self.multiple = kind, flag, value, multiple
        self.default = False if flag and default is None and not self.off_names else default
        self.required, self.metavar, self.show_default = required, metavar, show_default
        self.help, self.unused, self.refused = help, unused, refused


Parameter = Option | Argument


def _named(names: tuple[str, ...]) -> tuple[str, list[str], list[str]]:
    """The name that it is passed on by, the options, and those that switch it off."""
    options = [name for name in names if name.startswith("-")]
    pairs = [option.partition("/") for option in options]
    on, off = [name for name, _, _ in pairs], [name for _, _, name in pairs if name]
    given = [name for name in names if not name.startswith("-")]
    name = given[0] if given else next((each for each in on if each.startswith("--")), on[0])
    return name.lstrip("-").replace("-", "_"), on, off


class Misunderstood(Exception):
    """The words are not plainly right: click says what they mean, or what is wrong with them."""


def read(
    parameters: Sequence[Parameter], words: Sequence[str], *, interspersed: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """The values of all parameters, and the words that are left over. Raises Misunderstood.

    interspersed: whether options may stand behind the first word that is none; if not, one must be
    left over or taken.
    """
    options = [each for each in parameters if isinstance(each, Option)]
    found, left = _split(options, words, interspersed=interspersed)
    values = {
        option.name: _value(option, found.get(option.name))
        for option in options
        if not (option.unused or option.refused)
    }
    for argument in parameters:
        if isinstance(argument, Argument):
            values[argument.name], left = _taken(argument, left)
    return values, left


def _split(
    options: Sequence[Option], words: Sequence[str], *, interspersed: bool
) -> tuple[dict[str, list[Any]], list[str]]:
    """What each option was given, and the other words."""
    on = {name: option for option in options for name in option.names}
    off = {name: option for option in options for name in option.off_names}
    found: dict[str, list[Any]] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--" or len(word) < 2 or word[0] != "-":
            others += [word] * (word != "--")
            if word == "--" or not interspersed:
                others += rest
            continue
        name, equals, text = word.partition("=")
        if len(name) > 2 and f"-{name}" in on:
            name = f"-{name}"
        if name in off and not equals:
            found[off[name].name] = [False]
            continue
        option = on.get(name)
        if option is None or option.refused:
            raise Misunderstood
        if option.flag and equals:
            found[option.name] = _switched(option, text)
        else:
            found.setdefault(option.name, []).append(_given(option, equals, text, rest))
    return found, others


def _switched(option: Option, text: str) -> list[Any]:
    """What a flag is, whatever was said before."""
    if text not in SWITCHED:
        raise Misunderstood
    if SWITCHED[text]:
        return [option.value]
    return [False] if option.off_names else []


def _given(option: Option, equals: str, text: str, rest: Iterator[str]) -> Any:
    if option.flag:
        return option.value
    value = text if equals else next(rest, None)
    if value is None:
        raise Misunderstood
    return _converted(option.kind, value)


def _converted(kind: Kind, text: str) -> Any:
    try:
        return kind.convert(text)
    except ValueError:
        raise Misunderstood from None


def _value(option: Option, found: list[Any] | None) -> Any:
    if option.multiple:
        return tuple(found or ())
    if found:
        return found[-1]
    if option.required:
        raise Misunderstood
    default = option.default
    return _converted(option.kind, default) if isinstance(default, str) else default


def _taken(argument: Argument, words: list[str]) -> tuple[Any, list[str]]:
    if argument.many:
        return tuple(_converted(argument.kind, word) for word in words), []
    if words:
        return _converted(argument.kind, words[0]), words[1:]
    if argument.default is None:
        raise Misunderstood
    return _converted(argument.kind, argument.default), []
