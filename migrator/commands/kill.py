"""`migrator kill`: send a signal to a container."""

from __future__ import annotations

import signal

from migrator.commands._common import on_container
from migrator.commands._options import Kind
from migrator.commands._verb import argument, option, verb
from runtime.container import Container


def signal_number(text: str) -> int:
    """The number of a signal given by name (TERM, SIGTERM, RTMIN+3) or number; 0 asks for init.

    ValueError for none.
    """
    name, _, offset = text.upper().removeprefix("SIG").partition("+")
    number = name if name.isdecimal() else signal.Signals.__members__.get(f"SIG{name}", "")
    try:
        found = int(number) + int(offset or 0)
    except ValueError:
        found = -1
    if found not in signal.valid_signals() | {0}:
        raise ValueError(f"{text!r} is no signal: give a name such as TERM, or a number")
    return found


@verb()
@on_container
@argument("number", metavar="[SIGNAL]", kind=Kind(signal_number), default="TERM")
@option("-a", "--all", "everyone", flag=True, help="To every process, not to init alone.")
def command(container: Container, number: int, everyone: bool) -> None:
    """Send SIGNAL (a name or a number; TERM if none is given) to the init of CONTAINER."""
    container.signal(number, everyone=everyone)
