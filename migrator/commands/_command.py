"""Click's side of a command: its options as Go programs take them, its help as they show it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.commands._options import SWITCHED, Argument, Kind, Option, Parameter
from migrator.commands._verb import Verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Command(click.Command):
    """A command whose long options may have one dash, as Go programs take them: `-pid-file F`."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name, usage, text and options, in the sections that runc's help has."""
        with formatter.section("NAME"):
            formatter.write_text(self.title(ctx))
        with formatter.section("USAGE"):
            formatter.write_text(" ".join((ctx.command_path, *self.collect_usage_pieces(ctx))))
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def title(self, ctx: click.Context) -> str:
        """The command and, in a sentence, what it does."""
        return f"{ctx.command_path} - {self.get_short_help_str(limit=200)}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read *args* as click does, after giving each long option its two dashes."""
        return super().parse_args(ctx, self._two_dashes(ctx, args))

    def _two_dashes(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {
            name: parameter
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        words: list[str | None] = []
        switched: dict[str | None, list[int]] = {}  # where among them each flag is
        rest = iter(args)
        for arg in rest:
            name, equals, value = arg.partition("=")
            if not name.startswith("--") and len(name) > 2 and f"-{name}" in options:
                name, arg = f"-{name}", f"-{arg}"
            option = options.get(name)
            if option and option.is_flag and (not equals or value in SWITCHED):
                places = switched.setdefault(option.name, [])
                if SWITCHED.get(value, True):
                    places.append(len(words))
                    words.append(name)
                else:  # whatever was said before
                    for place in places:
                        words[place] = None
                    words += option.secondary_opts[:1]
                continue
            if option and equals and not name.startswith("--"):
                words += [name, value]
                continue
            words.append(arg)
            if arg == "--" or (not arg.startswith("-") and not ctx.allow_interspersed_args):
                break
            if option and not (option.is_flag or option.count or equals):
                words.append(next(rest, None))
                if words[-1] is None:  # runc's words: by them Podman sees that it has the option
                    raise click.BadOptionUsage(name, f"flag needs an argument: {name}", ctx)
        return [word for word in (*words, *rest) if word is not None]


class Group(Command, click.Group):
    """A command that has commands of its own."""


def of_verb(name: str, verb: Verb) -> Command:
    """The click command for a declared one."""

    def callback(**values: Any) -> int:
        return verb(click.get_current_context().obj, values)

    return Command(
        name,
        params=of_parameters(verb.parameters),
        callback=callback,
        help=inspect.cleandoc(verb.function.__doc__ or ""),
        context_settings={"allow_interspersed_args": not verb.passes_arguments},
    )


def of_parameters(parameters: tuple[Parameter, ...] | list[Parameter]) -> list[click.Parameter]:
    """Click's parameters for declared ones."""
    return [_argument(each) if isinstance(each, Argument) else _option(each) for each in parameters]


def _argument(argument: Argument) -> click.Argument:
    optional = argument.many or argument.default is not None
    settings: dict[str, Any] = {"default": argument.default} if argument.default else {}
    if argument.complete:
        settings["shell_complete"] = _completing(argument.complete)
    return click.Argument(
        [argument.name],
        metavar=argument.metavar,
        type=_type(argument.kind),
        nargs=-1 if argument.many else 1,
        required=not optional,
        **settings,
    )


def _completing(names_below: Callable[[Path], Any]) -> Callable[..., list[CompletionItem]]:
    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = sorted(names_below(ctx.find_root().params["root"]))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return complete


def _option(option: Option) -> click.Option:
    names = [*option.names, option.name]
    if option.unused or option.refused:
        callback = _refusing(option.refused) if option.refused else None
        return click.Option(
            names, is_flag=option.flag, expose_value=False, hidden=True, callback=callback
        )
    if option.off_names:
        names = ["/".join((option.names[0], option.off_names[0])), option.name]
        return click.Option(names, default=option.default, help=option.help)
    if option.flag:
        return click.Option(
            names, is_flag=True, flag_value=option.value, default=option.default, help=option.help
        )
    settings = {} if option.default is None else {"default": option.default}
    return click.Option(
        names,
        type=_type(option.kind),
        multiple=option.multiple,
        required=option.required,
        metavar=option.metavar,
        show_default=option.show_default,
        help=option.help,
        **settings,
    )


def _refusing(why: str) -> Callable[..., None]:
    def refuse(_: click.Context, option: click.Parameter, value: object) -> None:
        if value:
            raise click.UsageError(f"{max(option.opts, key=len)} {why}")

    return refuse


def _type(kind: Kind) -> click.ParamType[Any]:
    return kind.as_click() if kind.as_click else _Converted(kind)


class _Converted(click.ParamType):  # type: ignore[type-arg] # generic since click 8.2
    """What only our own function knows to read."""

    name = "text"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text; what is one already stays."""
        if not isinstance(value, str):
            return value
        try:
            return self._kind.convert(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
