"""What ssh(1) would do to reach a host, by its own word: `ssh -G` says what ssh_config(5) comes to.

So Include, Match, CanonicalizeHostname and whatever comes next are OpenSSH's to understand.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import UsageProblem
from migrator.plan import Destination

CONNECT_TIMEOUT_S = 15.0
_TRUSTING = ("no", "off", "false", "accept-new")
_TOKEN = re.compile("%(.)")


@dataclass(frozen=True, slots=True)
class SshSettings:
    """Where to connect to, as whom, with which keys, and which host keys are known.

    known_as: the host's name in known_hosts; accept_new: an unknown (never a changed) host key is
    taken; identities_only: none of the agent's keys but those of *identities*; agent: whether it is
    asked at all; proxy_command: for the shell, "" where the connection is direct.
    """

    hostname: str
    port: int
    user: str
    known_as: str
    known_hosts: tuple[Path, ...]
    accept_new: bool
    identities: tuple[Path, ...]
    identities_only: bool
    agent: bool
    proxy_command: str
    connect_timeout_s: float


def read(destination: Destination) -> SshSettings:
    """The settings for *destination*, whose own user, port and key come first.

    Raises UsageProblem: no ssh here, or a configuration that it refuses.
    """
    config, identity = destination.ssh_config, destination.identity
    for what, file in (("ssh configuration", config), ("identity file", identity)):
        if file is not None and not file.is_file():
            raise UsageProblem(f"{what} {file} is not there")
    return _settings(_words(destination), destination)


def _words(destination: Destination) -> dict[str, list[str]]:
    """What `ssh -G` prints: keys in lower case, with the value of each line."""
    argv = ["ssh", "-G", "-T", *_file(destination)]
    argv += ["-l", destination.user] if destination.user else []
    argv += ["-p", str(destination.port)] if destination.port else []
    argv += ["--", destination.host]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        why = "ssh is not installed here, by which its configuration is read"
        raise UsageProblem(f"{why}: install openssh-client") from None
    if done.returncode:
        why = "; ".join(done.stderr.splitlines()) or f"exit status {done.returncode}"
        raise UsageProblem(f"ssh refuses its configuration for {destination.host}: {why}")
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def _file(destination: Destination) -> list[str]:
    return ["-F", str(destination.ssh_config)] if destination.ssh_config else []


def _settings(found: Mapping[str, list[str]], destination: Destination) -> SshSettings:
    said = {key: values[0] for key, values in found.items() if values[0].lower() != "none"}
    hostname, port = said["hostname"], int(said["port"])
    alias = said.get("hostkeyalias", "")
    tokens = _tokens(said, destination)
    own = [str(destination.identity)] if destination.identity else found.get("identityfile", [])
    known = f"{said.get('userknownhostsfile', '')} {said.get('globalknownhostsfile', '')}"
    return SshSettings(
        hostname=hostname,
        port=port,
        user=said["user"],
        # sshd(8): a port that is not 22 is part of the name, but of no alias
        known_as=alias or (hostname if port == 22 else f"[{hostname}]:{port}"),
        known_hosts=_files(known.split(), tokens),
        accept_new=said.get("stricthostkeychecking", "ask").lower() in _TRUSTING,
        identities=_files(own, tokens),
        identities_only=said.get("identitiesonly") == "yes",
        agent=found.get("identityagent") != ["none"],
        proxy_command=_proxy(said, destination, tokens),
        connect_timeout_s=float(said.get("connecttimeout", CONNECT_TIMEOUT_S)),
    )


def _tokens(said: Mapping[str, str], destination: Destination) -> dict[str, str]:
    """ssh_config(5), TOKENS: those that `ssh -G` leaves as they are."""
    us, here = pwd.getpwuid(os.getuid()), socket.gethostname()
    return {
        "%": "%",
        "d": us.pw_dir,
        "h": said["hostname"],
        "i": str(us.pw_uid),
        "k": said.get("hostkeyalias", destination.host),
        "L": here.partition(".")[0],
        "l": here,
        "n": destination.host,
        "p": said["port"],
        "r": said["user"],
        "u": us.pw_name,
    }


def _expanded(text: str, tokens: Mapping[str, str]) -> str:
    return _TOKEN.sub(lambda found: tokens.get(found[1], found[0]), text)


def _files(names: Iterable[str], tokens: Mapping[str, str]) -> tuple[Path, ...]:
    """Those of *names* that are there."""
    paths = (Path(_expanded(name, tokens)).expanduser() for name in names)
    return tuple(path for path in paths if path.is_file())


def _proxy(said: Mapping[str, str], destination: Destination, tokens: Mapping[str, str]) -> str:
    """ProxyCommand, or the one that ssh(1) makes of ProxyJump."""
    if jump := said.get("proxyjump"):
        *before, last = jump.split(",")
        chain = ["-J", ",".join(before)] if before else []
        target = f"[{said['hostname']}]:{said['port']}"
        # as a URI it may have a port
        through = f"ssh://{last.removeprefix('ssh://')}"
        return shlex.join(["ssh", *_file(destination), *chain, "-W", target, through])
    return _expanded(said.get("proxycommand", ""), tokens)
