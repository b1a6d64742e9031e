"""A command of `migrator`: its options as Go programs take them, its help as they show it."""

from __future__ import annotations

from collections.abc import Iterator

import click

# What a flag may be given as a value, `--detach=false`.
_SWITCHED = {"true": True, "1": True, "false": False, "0": False}


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
        return super().parse_args(ctx, list(self._two_dashes(ctx, args)))

    def _two_dashes(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        options = {
            name: parameter
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        rest = iter(args)
        for arg in rest:
            name, equals, value = arg.partition("=")
            if not name.startswith("--") and len(name) > 2 and f"-{name}" in options:
                name, arg = f"-{name}", f"-{arg}"
            option = options.get(name)
            if option and option.is_flag and value in _SWITCHED:
                if _SWITCHED[value]:
                    yield name
                continue
            yield arg
            if arg == "--" or (not arg.startswith("-") and not ctx.allow_interspersed_args):
                break
            if option and not (option.is_flag or option.count or equals):
                yield from (word for word in [next(rest, None)] if word is not None)
        yield from rest


class Group(Command, click.Group):
    """A command that has commands of its own."""
