"""What commands share: the container that they are about, and options of several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrator.commands._options import DIRECTORY, FILE, Argument, Kind, Option, choice, integer
from migrator.commands._verb import pass_settings, taking

if TYPE_CHECKING:
    from migrator.commands._globals import Settings
    from runtime.process.terminal import Terminal


def _ids(root: Path) -> Iterator[str]:
    return (state.parent.name for state in root.glob("*/state.json"))


ID = Argument("container_id", metavar="CONTAINER", complete=_ids)
#: of one that is to be made
NEW_ID = Argument("container_id", metavar="CONTAINER")


def on_container(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the container that its first argument names."""

    @taking(ID)
    @pass_settings
    @wraps(function)
    def load(settings: Settings, container_id: str, **options: Any) -> Any:
        from runtime.container import Container

        return function(Container.load(settings.root, container_id), **options)

    return load


def _terminal(path: str) -> Terminal:
    from runtime.process.terminal import Terminal

    return Terminal(FILE.convert(path))


CONSOLE_SOCKET = Option(
    "terminal",
    "--console-socket",
    kind=Kind(_terminal),
    metavar="SOCKET",
    help="Send its terminal to who listens at this socket.",
)


PIDFD_SOCKET = Option(
    "--pidfd-socket",
    kind=FILE,
    metavar="SOCKET",
    help="Send a pidfd of its process to who listens at this socket.",
)


NO_SUBREAPER = Option(
    "subreaper",
    "--no-subreaper",
    flag=True,
    value=False,
    default=True,
    help="Leave its orphans to the host's init.",
)

BUNDLE = Option(
    "-b",
    "--bundle",
    kind=DIRECTORY,
    default=".",
    help="Where config.json and the rootfs are.  [default: the current directory]",
)

PID_FILE = Option("--pid-file", kind=FILE, help="Write the process id of its init to this file.")

PRESERVE_FDS = Option(
    "--preserve-fds",
    kind=integer(at_least=0),
    default=0,
    metavar="N",
    help="Pass on N descriptors after the standard three.",
)

_CREATION = (
    NEW_ID,
    BUNDLE,
    PID_FILE,
    PRESERVE_FDS,
    Option(
        "networks",
        "--network",
        multiple=True,
        metavar="TYPE,KEY=VALUE,...",
        help="An interface: veth,name=eth0,bridge=br0,address=10.1.0.2/24,gateway=10.1.0.1 ...",
    ),
    Option(
        "routes",
        "--route",
        multiple=True,
        metavar="KEY=VALUE,...",
        help="A route: destination=10.2.0.0/16,gateway=10.1.0.9,interface_name=eth0 ...",
    ),
    Option(
        "--network-file",
        kind=FILE,
        help='The same as JSON: {"networks": [...], "routes": [...]}.',
    ),
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    Option("--no-pivot", flag=True, help="Move the rootfs over the root, for an initramfs."),
    Option(
        "new_keyring",
        "--no-new-keyring",
        flag=True,
        value=False,
        default=True,
        help="Leave its processes the session keyring of ours.",
    ),
)


def creates_container(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments of Container.create, from the options that all creators have."""

    @taking(*_CREATION)
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

    return ask


def _empty(kind: str) -> bool:
    if kind != "network":
        raise ValueError(f"namespace {kind!r} is not supported: only network is")
    return True


CRIU = (
    Option(
        "--image-path",
        kind=DIRECTORY,
        default="checkpoint",
        show_default=True,
        help="The image directory.",
    ),
    Option(
        "--work-path",
        kind=DIRECTORY,
        help="For CRIU's log and statistics.  [default: the image directory]",
    ),
    Option("--tcp-established", flag=True, help="Carry TCP connections."),
    Option("--ext-unix-sk", flag=True, help="Allow unix sockets connected to outside."),
    Option("--shell-job", flag=True, help="Allow a terminal or session from outside."),
    Option("--file-locks", flag=True, help="Carry file locks."),
    Option(
        "--manage-cgroups-mode",
        kind=choice("ignore", "soft", "full", "strict"),
        default="ignore",
        show_default=True,
        help="What CRIU does about cgroups below the container's own.",
    ),
    Option("--auto-dedup", flag=True, help="Free pages in the images that newer ones have."),
    Option(
        "empty_network",
        "--empty-ns",
        kind=Kind(_empty),
        default=False,
        metavar="network",
        help="Leave out what its network namespace has, for hooks to make anew.",
    ),
)
