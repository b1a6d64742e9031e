"""Options of the commands at both ends of a connection that pages go over."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.commands._common import FILE

if TYPE_CHECKING:
    from migrator.page_link import Address, Certificates


def _parsed(_: click.Context, __: click.Parameter, text: str | None) -> Address | None:
    from migrator.page_link import Address

    try:
        return None if text is None else Address.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def address_option(name: str, **settings: Any) -> Callable[[Any], Any]:
    """An option for the address of a page server, which is passed on as `address`."""
    return click.option("address", name, metavar="ADDRESS:PORT", callback=_parsed, **settings)


status_fd = click.option(
    "--status-fd", type=int, metavar="FD", help="Write a byte here when it listens."
)
criu_daemon = click.option("--criu-daemon", is_flag=True, help="Have CRIU's own server do it.")

_TLS_OPTIONS = (
    click.option("--tls-cert", type=FILE, help="Our certificate (PEM)."),
    click.option("--tls-key", type=FILE, help="Its key."),
    click.option("--tls-ca", type=FILE, help="Who signed the other side's certificate."),
    click.option("--plain", is_flag=True, help="No TLS, though memory goes over a network."),
)


def tls_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `certificates`, None for no TLS; and `plain`."""

    @wraps(function)
    def ask(
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_ca: Path | None,
        tls_no_cn_verify: bool = False,
        **options: Any,
    ) -> Any:
        from migrator.page_link import Certificates

        certificates = None
        if tls_cert and tls_key and tls_ca:
            check = not tls_no_cn_verify
            certificates = Certificates(tls_cert, tls_key, tls_ca, check_name=check)
        elif tls_cert or tls_key or tls_ca:
            raise click.UsageError("TLS needs all of --tls-cert, --tls-key and --tls-ca")
        return function(certificates=certificates, **options)

    decorated: Callable[..., Any] = ask
    for option in reversed(_TLS_OPTIONS):
        decorated = option(decorated)
    return decorated


def check_privacy(address: Address, certificates: Certificates | None, *, plain: bool) -> None:
    """Memory goes over a network unencrypted only when that is wanted. Raises UsageError."""
    if certificates is not None and plain:
        raise click.UsageError("--plain and certificates exclude each other")
    if certificates is not None or address.is_local:
        return
    if not plain:
        raise click.UsageError(
            f"memory would go to or from {address} for all to read and change: give --tls-cert, "
            "--tls-key and --tls-ca, or --plain for a network that is nobody else's"
        )
    import logging

    logging.getLogger(__name__).warning(
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
