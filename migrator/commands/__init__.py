"""The commands, one module each, with the line that `migrator --help` shows for it.

The table is all that is read to show the help: a module is imported when its command is run, and
must have the command under the name `command`. The module of `a-b` is `a_b`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import click

    from migrator.commands._verb import Verb


class Entry(NamedTuple):
    """Where the help lists a command, and with which words."""

    section: str
    help: str


_CONTAINERS = "Containers"
_MOVING = "Checkpoint and migration"
_TRYING = "Trying it out"
_SHELL = "Shell"

COMMANDS: dict[str, Entry] = {
    "create": Entry(_CONTAINERS, "Create a container from a bundle, without starting its process."),
    "start": Entry(_CONTAINERS, "Start the process of a created container."),
    "run": Entry(_CONTAINERS, "Create a container and start it."),
    "exec": Entry(_CONTAINERS, "Run another process in a running container."),
    "state": Entry(_CONTAINERS, "Print the state of a container as JSON."),
    "list": Entry(_CONTAINERS, "List the containers of this host."),
    "ps": Entry(_CONTAINERS, "List the processes of a container."),
    "events": Entry(_CONTAINERS, "Print the statistics of a container, and when memory runs out."),
    "pause": Entry(_CONTAINERS, "Freeze all processes of a container."),
    "resume": Entry(_CONTAINERS, "Let a paused container go on."),
    "update": Entry(_CONTAINERS, "Change the limits of a container while it runs."),
    "kill": Entry(_CONTAINERS, "Send a signal to a container."),
    "delete": Entry(_CONTAINERS, "Remove a stopped container."),
    "spec": Entry(_CONTAINERS, "Write a config.json to start from."),
    "features": Entry(_CONTAINERS, "Print what this runtime can do, as OCI's JSON."),
    "checkpoint": Entry(_MOVING, "Write a running container to an image directory."),
    "restore": Entry(_MOVING, "Make a container from an image directory, as it ran."),
    "migrate": Entry(_MOVING, "Move a running container to another host."),
    "resolve": Entry(_MOVING, "Finish a migration that a crash left half done."),
    "agent": Entry(_MOVING, "Serve one migration on stdin and stdout (started over SSH)."),
    "lazy-pages": Entry(_MOVING, "Bring the memory of a lazy restore from its images."),
    "page-server": Entry(_MOVING, "Serve the memory of a checkpoint to a lazy restore elsewhere."),
    "lab": Entry(_TRYING, "Two hosts and a client on this machine, to try a migration on."),
    "scenario": Entry(_TRYING, "Run a story: a workload that is moved while a client watches."),
    "help": Entry(_SHELL, "Show the commands, or the options of one."),
    "completion": Entry(_SHELL, "Print the completion script of a shell."),
}


def load(name: str) -> Verb | click.Group:
    """Import the module of a command."""
    command: Verb | click.Group = import_module(f"{__name__}.{name.replace('-', '_')}").command
    return command
