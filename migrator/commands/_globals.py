"""`migrator`'s own options, which stand before the command; and what comes of them."""

from __future__ import annotations

import os
from pathlib import Path

from migrator import log
from migrator.commands._options import FILE, Kind, Option, choice
from runtime.caller import in_user_namespace


def _default_root() -> Path:
    """Where containers keep their state: an ordinary user's below the own runtime directory.

    So is that of root of a user namespace (rootless Podman), unless $USER calls him so.
    """
    runtime_directory = os.environ.get("XDG_RUNTIME_DIR")
    of_host = os.geteuid() == 0 and (os.environ.get("USER") == "root" or not in_user_namespace())
    if runtime_directory and not of_host:
        return Path(runtime_directory, "migrator")
    return Path("/run/migrator")


def _directory(text: str) -> Path:
    path = Path(os.path.realpath(text))
    if path.is_file():
        raise ValueError(f"directory {text!r} is a file")
    return path


DEFAULT_ROOT = _default_root()

OPTIONS = (
    Option(
        "--root",
        kind=Kind(_directory),
        default=DEFAULT_ROOT,
        show_default=True,
        metavar="DIR",
        help="Where containers keep their state.",
    ),
    Option("log_path", "--log", kind=FILE, metavar="FILE", help="Append messages to FILE."),
    Option(
        "--log-format",
        kind=choice(*log.FORMATS),
        default="text",
        show_default=True,
        help="Of the log file; without one, of standard error.",
    ),
    Option("--debug", flag=True, help="Log every step, and where an error comes from."),
    Option(
        "--systemd-cgroup/--no-systemd-cgroup",
        flag=True,
        help="Have systemd make cgroups; linux.cgroupsPath is slice:prefix:name.",
    ),
    Option(
        "--rootless",
        kind=choice("true", "false", "auto"),
        default="auto",
        show_default=True,
        help="Whether containers may do without cgroups that are refused.",
    ),
    Option("--criu", metavar="FILE", help="The criu to use (or $MIGRATOR_CRIU)."),
)


class Settings:
    """The global options that commands read."""

    __slots__ = ("criu", "debug", "root", "rootless", "systemd_cgroup")

    def __init__(
        self,
        root: Path,
        *,
        criu: str | None = None,
        debug: bool = False,
        systemd_cgroup: bool | None = None,
        rootless: bool | None = None,
    ) -> None:
        """systemd_cgroup: None: not said; rootless: None: unless who calls is the host's root."""
        self.root, self.criu, self.debug = root, criu, debug
        self.systemd_cgroup, self.rootless = systemd_cgroup, rootless


def apply(
    *,
    root: Path,
    log_path: Path | None,
    log_format: str,
    debug: bool,
    systemd_cgroup: bool | None,
    rootless: str,
    criu: str | None,
) -> Settings:
    """Have messages go where they are to go. Raises OSError when the log cannot be written."""
    log.configure(path=log_path, form=log_format, debug=debug)
    return Settings(
        root,
        criu=criu,
        debug=debug,
        systemd_cgroup=systemd_cgroup,
        rootless=None if rootless == "auto" else rootless == "true",
    )
