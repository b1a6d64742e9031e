"""Options of the commands at both ends of a connection that pages go over."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrator.commands._options import FILE, Kind, Option, integer
from migrator.commands._verb import option, taking
from migrator.errors import UsageProblem

if TYPE_CHECKING:
    from migrator.commands._globals import Settings
    from migrator.pages.connection import Address, Certificates


def _address(text: str) -> Address:
    from migrator.pages.connection import Address

    return Address.parse(text)


def address_option(name: str, **settings: Any) -> Callable[[Any], Any]:
    """An option for the address of a page server, which is passed on as `address`."""
    return option("address", name, kind=Kind(_address), metavar="ADDRESS:PORT", **settings)


STATUS_FD = Option(
    "--status-fd", kind=integer(), metavar="FD", help="Write a byte here when it listens."
)
CRIU_DAEMON = Option("--criu-daemon", flag=True, help="Have CRIU's own server do it.")

_TLS = (
    Option("--tls-cert", kind=FILE, help="Our certificate (PEM)."),
    Option("--tls-key", kind=FILE, help="Its key."),
    Option("--tls-ca", kind=FILE, help="Who signed the other side's certificate."),
    Option("--plain", flag=True, help="No TLS, though memory goes over a network."),
)


def tls_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command with Settings `certificates`, None for no TLS; and `plain`."""

    @taking(*_TLS)
    @wraps(function)
    def ask(
        settings: Settings,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_ca: Path | None,
        tls_no_cn_verify: bool = False,
        **options: Any,
    ) -> Any:
        from migrator.pages.connection import Certificates

        certificates = None
        if tls_cert and tls_key and tls_ca:
            check = not tls_no_cn_verify
            certificates = Certificates(tls_cert, tls_key, tls_ca, check_name=check)
        elif tls_cert or tls_key or tls_ca:
            raise UsageProblem("TLS needs all of --tls-cert, --tls-key and --tls-ca")
        return function(settings, certificates=certificates, **options)

    return ask


def check_privacy(address: Address, certificates: Certificates | None, *, plain: bool) -> None:
    """Memory goes over a network unencrypted only when that is wanted. Raises UsageProblem."""
    if certificates is not None and plain:
        raise UsageProblem("--plain and certificates exclude each other")
    if certificates is not None or address.is_local:
        return
    if not plain:
        raise UsageProblem(
            f"memory would go to or from {address} for all to read and change: give --tls-cert, "
            "--tls-key and --tls-ca, or --plain for a network that is nobody else's"
        )
    from criu_rpc.logger import Logger

    Logger(__name__).warning(
        "memory goes to or from %s for all on the way to read and change", address
    )


def criu_options(address: Address, certificates: Certificates | None) -> list[str]:
    """Of CRIU's own servers, for a connection."""
    options = ["--address", address.host, "--port", str(address.port)]
    if certificates is not None:
        options += ["--tls", "--tls-cert", str(certificates.certificate.absolute())]
        options += ["--tls-key", str(certificates.key.absolute())]
        options += ["--tls-cacert", str(certificates.authority.absolute())]
        options += [] if certificates.check_name else ["--tls-no-cn-verify"]
    return options


def say_ready(status_fd: int | None) -> None:
    """As CRIU's --status-fd has it: a byte, and the end."""
    if status_fd is not None:
        os.write(status_fd, b"\0")
        os.close(status_fd)
