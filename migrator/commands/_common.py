"""What commands share: global settings, how options are read, and options of several of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.commands._command import Command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from runtime.process.terminal import Terminal


def _default_root() -> Path:
    """Where containers keep their state: an ordinary user's below the own runtime directory."""
    runtime_directory = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_directory and os.geteuid() != 0:
        return Path(runtime_directory, "migrator")
    return Path("/run/migrator")


DEFAULT_ROOT = _default_root()
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options that commands read."""

    root: Path
    criu: str | None = None
    debug: bool = False
    #: None: not said
    systemd_cgroup: bool | None = None
    #: None: whether who calls is the host's root decides
    rootless: bool | None = None


def pass_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the Settings as its first argument."""
    return click.pass_obj(function)


def verb(
    *, passes_arguments: bool = False, **settings: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function the command of its module; its docstring is the help.

    passes_arguments: what follows the first argument belongs to another program, options and all.
    """
    context = {"allow_interspersed_args": not passes_arguments}
    return click.command(cls=Command, context_settings=context, **settings)


def _ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    root = Path(ctx.find_root().params["root"])
    ids = sorted(state.parent.name for state in root.glob("*/state.json"))
    return [CompletionItem(name) for name in ids if name.startswith(incomplete)]


id_argument = click.argument("container_id", metavar="CONTAINER", shell_complete=_ids)


def on_container(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the container that its first argument names."""

    @id_argument
    @pass_settings
    @wraps(function)
    def load(settings: Settings, container_id: str, **options: Any) -> Any:
        from runtime.container import Container

        return function(Container.load(settings.root, container_id), **options)

    return load


def refused(
    *names: str, why: str = "is not supported yet", flag: bool = True
) -> Callable[..., Any]:
    """An option of runc's that is not carried out, and says so instead of being skipped."""

    def refuse(_: click.Context, option: click.Parameter, value: object) -> None:
        if value:
            raise click.UsageError(f"{max(option.opts, key=len)} {why}")

    return click.option(*names, is_flag=flag, expose_value=False, hidden=True, callback=refuse)


def _terminal(_: click.Context, __: click.Parameter, path: Path | None) -> Terminal | None:
    if path is None:
        return None
    from runtime.process.terminal import Terminal

    return Terminal(path)


console_socket_option = click.option(
    "--console-socket",
    "terminal",
    type=FILE,
    metavar="SOCKET",
    callback=_terminal,
    help="Send its terminal to who listens at this socket.",
)


pidfd_socket_option = click.option(
    "--pidfd-socket",
    type=FILE,
    metavar="SOCKET",
    help="Send a pidfd of its process to who listens at this socket.",
)


_CREATION_OPTIONS = (
    click.argument("container_id", metavar="CONTAINER"),
    click.option(
        "-b",
        "--bundle",
        type=DIRECTORY,
        default=".",
        help="Where config.json and the rootfs are.  [default: the current directory]",
    ),
    click.option("--pid-file", type=FILE, help="Write the process id of its init to this file."),
    click.option(
        "--preserve-fds",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Pass on N descriptors after the standard three.",
    ),
    click.option(
        "--network",
        "networks",
        multiple=True,
        metavar="TYPE,KEY=VALUE,...",
        help="An interface: veth,name=eth0,bridge=br0,address=10.1.0.2/24,gateway=10.1.0.1 ...",
    ),
    click.option(
        "--route",
        "routes",
        multiple=True,
        metavar="KEY=VALUE,...",
        help="A route: destination=10.2.0.0/16,gateway=10.1.0.9,interface_name=eth0 ...",
    ),
    click.option(
        "--network-file", type=FILE, help='The same as JSON: {"networks": [...], "routes": [...]}.'
    ),
    console_socket_option,
    pidfd_socket_option,
    click.option(
        "--no-pivot", is_flag=True, help="Move the rootfs over the root, for an initramfs."
    ),
    click.option(
        "--no-new-keyring",
        "new_keyring",
        is_flag=True,
        default=True,
        flag_value=False,
        help="Leave its processes the session keyring of ours.",
    ),
)


def creates_container(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments of Container.create, from the options that all creators have."""

    @pass_settings
    @wraps(function)
    def ask(
        settings: Settings,
        networks: tuple[str, ...],
        routes: tuple[str, ...],
        network_file: Path | None,
        **options: Any,
    ) -> Any:
        from migrator.commands._activation import activation
        from runtime.process.stdio import Stdio

        options |= activation()
        if networks or routes or network_file:
            from runtime.network import combine

            options["networks"] = combine(networks, routes, network_file)
        options["systemd_cgroup"] = bool(settings.systemd_cgroup)
        options["rootless"] = settings.rootless
        return function(root=settings.root, stdio=Stdio.inherited(), **options)

    decorated: Callable[..., Any] = ask
    for option in reversed(_CREATION_OPTIONS):
        decorated = option(decorated)
    return decorated


_CRIU_OPTIONS = (
    click.option(
        "--image-path",
        type=DIRECTORY,
        default="checkpoint",
        show_default=True,
        help="The image directory.",
    ),
    click.option(
        "--work-path",
        type=DIRECTORY,
        help="For CRIU's log and statistics.  [default: the image directory]",
    ),
    click.option("--tcp-established", is_flag=True, help="Carry TCP connections."),
    click.option("--ext-unix-sk", is_flag=True, help="Allow unix sockets connected to outside."),
    click.option("--shell-job", is_flag=True, help="Allow a terminal or session from outside."),
    click.option("--file-locks", is_flag=True, help="Carry file locks."),
    click.option(
        "--manage-cgroups-mode",
        type=click.Choice(["ignore", "soft", "full", "strict"]),
        default="ignore",
        show_default=True,
        help="What CRIU does about cgroups below the container's own.",
    ),
    click.option(
        "--auto-dedup", is_flag=True, help="Free pages in the images that newer ones have."
    ),
    refused("--empty-ns", flag=False),
)


def criu_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that checkpoint and restore share."""
    for option in reversed(_CRIU_OPTIONS):
        function = option(function)
    return function
