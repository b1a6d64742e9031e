"""SSH to the destination by paramiko: one connection, its agent, and what both sides' settings say.

Honours OpenSSH's client files: ssh_config(5) (HostName, User, Port, IdentityFile, IdentitiesOnly,
ProxyJump, ProxyCommand, UserKnownHostsFile, GlobalKnownHostsFile, HostKeyAlias, ConnectTimeout,
StrictHostKeyChecking), known_hosts and the running ssh-agent. A host whose key is unknown or has
changed is refused, unless ssh_config says ``StrictHostKeyChecking no`` or ``accept-new`` (then an
unknown, never a changed, key is taken for this run). A key that known_hosts has as ``@revoked`` for
any host is refused in any case.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from criu_rpc.logger import Logger
from migrator.dataplane import LINK_TIMEOUT_S
from migrator.errors import DestinationUnreachable, UsageProblem
from migrator.plan import Destination

logger = Logger(__name__)

CONNECT_TIMEOUT_S = 15.0


class SshConnection:
    """An authenticated connection. A context manager: leaving it ends the agent's channel."""

    def __init__(self, client: paramiko.SSHClient, destination: Destination) -> None:
        self._client = client
        self.destination = destination

    @classmethod
    def open(cls, destination: Destination) -> SshConnection:
        """Connect and authenticate; DestinationUnreachable says what failed and what to do."""

        settings = _settings(destination)
        client = paramiko.SSHClient()
        known_hosts = list(_known_hosts(settings))
        _load(client.get_host_keys(), known_hosts)
        client.set_missing_host_key_policy(_policy(settings, destination))
        try:
            client.connect(**_connect_arguments(destination, settings))
        except paramiko.BadHostKeyException as error:
            client.close()
            raise DestinationUnreachable(
                f"the host key of {destination.host} is not the one in known_hosts "
                f"({error.key.get_name()} "
                f"{error.key.fingerprint}): if the host was reinstalled, run: ssh-keygen -R "
                f"{destination.host}"
            ) from error
        except paramiko.AuthenticationException as error:
            client.close()
            raise DestinationUnreachable(
                f"{destination.host} accepts no key of ours for {settings['user']}: check that "
                f"`ssh {settings['user']}@{destination.host}` works without a password, or name a "
                "key with -i"
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            client.close()
            raise DestinationUnreachable(
                f"cannot reach {destination.host} by ssh: {_reason(error)}"
            ) from error
        except DestinationUnreachable:
            client.close()
            raise
        transport = client.get_transport()
        assert transport is not None
        if transport.get_remote_server_key().get_base64() in _revoked(known_hosts):
            client.close()
            raise DestinationUnreachable(
                f"the host key of {destination.host} is revoked in known_hosts: it must not be used"
            )
        return cls(client, destination)

    def start_agent(self, arguments: str = "agent") -> AgentStream:
        """Run the agent over there; its stdin and stdout are the returned stream."""
        transport = self._client.get_transport()
        assert transport is not None
        try:
            channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
            channel.exec_command(f"{self.destination.agent} {arguments}")
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise DestinationUnreachable(
                f"cannot start the agent on {self.destination.host}: {_reason(error)}"
            ) from error
        return AgentStream(channel, f"{self.destination.agent} {arguments}", self.destination.host)

    def peer_address(self) -> str:
        """The numeric address that this connection goes to; "" behind a proxy command."""
        transport = self._client.get_transport()
        assert transport is not None
        try:
            return str(transport.sock.getpeername()[0])
        except (OSError, AttributeError, TypeError, IndexError):
            return ""

    def forward(self, address: str, port: int) -> socket.socket:
        """A connection to address:port as the destination sees it, through SSH (direct-tcpip)."""

        transport = self._client.get_transport()
        assert transport is not None
        try:
            channel = transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=CONNECT_TIMEOUT_S
            )
        except (paramiko.SSHException, EOFError) as error:
            raise DestinationUnreachable(
                f"neither port {port} of {address} nor SSH's forwarding reaches the agent there "
                f"({error}): "
                "open the port, or set AllowTcpForwarding yes in its sshd_config"
            ) from error
        return _as_socket(channel)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AgentStream:
    """The agent's stdio as a wire.ByteStream; keeps the tail of its stderr for error messages."""

    def __init__(self, channel: paramiko.Channel, command: str, host: str) -> None:
        self._channel = channel
        self._command = command
        self._host = host

    def read(self, size: int) -> bytes:
        try:
            return self._channel.recv(size)
        except TimeoutError:
            if self._channel.closed:
                return b""
            raise

    def write(self, data: bytes) -> None:
        self._channel.settimeout(CONNECT_TIMEOUT_S)
        self._channel.sendall(data)

    def set_timeout(self, seconds: float | None) -> None:
        self._channel.settimeout(seconds)

    def close(self) -> None:
        self._channel.close()

    def why_it_ended(self) -> str | None:
        """The remedy when the agent's command could not be run there; None while it runs or spoke
        properly.
        """
        if not self._channel.exit_status_ready() and not self._channel.closed:
            self._channel.status_event.wait(2.0)
        status = self._channel.recv_exit_status() if self._channel.exit_status_ready() else -1
        if status in (126, 127):
            return (
                f"`{self._command}` cannot be run on {self._host}: install migrator there, "
                "or name its path with --agent"
            )
        text = self.stderr_tail()
        return f"the agent on {self._host} ended with status {status}" + (
            f": {text}" if text else ""
        )

    def stderr_tail(self) -> str:
        """The last line that the agent wrote to its stderr so far."""
        data = b""
        with suppress(Exception):
            while self._channel.recv_stderr_ready():
                data += self._channel.recv_stderr(1 << 14)
        lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def _settings(destination: Destination) -> dict[str, Any]:
    """ssh_config's answer for this host, with what the command line said put over it."""

    if destination.ssh_config is not None and not destination.ssh_config.is_file():
        raise UsageProblem(f"ssh configuration {destination.ssh_config} is not there")
    files = (
        [destination.ssh_config]
        if destination.ssh_config is not None
        else [Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")]
    )
    found: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            continue
        try:
            looked_up = paramiko.SSHConfig.from_path(str(file)).lookup(destination.host)
        except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize) as error:
            raise UsageProblem(f"{file}: {error}") from error
        for key, value in looked_up.items():
            if key == "hostname" and value == destination.host:
                continue  # paramiko's default, not the file's word
            found.setdefault(key, value)
    found["user"] = destination.user or found.get("user") or getpass.getuser()
    found["port"] = destination.port or int(found.get("port", 22))
    found.setdefault("hostname", destination.host)
    return found


def _known_hosts(settings: dict[str, Any]) -> Iterator[list[str]]:
    """The fields of each line of all known_hosts. sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    default = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
    named = settings.get("userknownhostsfile", default).split()
    named += settings.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()
    for name in named:
        with suppress(OSError):
            text = Path(name).expanduser().read_text(errors="replace")
            yield from (line.split() for line in text.splitlines())


def _load(known: paramiko.HostKeys, known_hosts: Iterable[list[str]]) -> None:
    """Of equal names and types the first counts; paramiko knows no markers, and fails for them."""
    for fields in known_hosts:
        if len(fields) < 3 or fields[0][0] in "#@":
            continue
        with suppress(paramiko.SSHException, InvalidHostKey):
            entry = HostKeyEntry.from_line(" ".join(fields[:3]))
            if entry is None:
                continue
            kind = entry.key.get_name()
            for name in entry.hostnames:
                if kind not in (known.lookup(name) or ()):
                    known.add(name, kind, entry.key)


def _revoked(known_hosts: Iterable[list[str]]) -> set[str]:
    """The keys, in base64, that no host may have."""
    return {fields[3] for fields in known_hosts if len(fields) > 3 and fields[0] == "@revoked"}


def _policy(settings: dict[str, Any], destination: Destination) -> paramiko.MissingHostKeyPolicy:

    class Refuse(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            raise DestinationUnreachable(
                f"the host key of {destination.host} is not known: run `ssh {settings['user']}@"
                f"{destination.host}` once and check its fingerprint ({key.get_name()} "
                f"{key.fingerprint})"
            )

    if settings.get("stricthostkeychecking", "ask").lower() in ("no", "off", "accept-new"):
        return paramiko.AutoAddPolicy()
    return Refuse()


def _connect_arguments(destination: Destination, settings: dict[str, Any]) -> dict[str, Any]:
    identities = (
        [str(destination.identity)]
        if destination.identity
        else list(settings.get("identityfile", []))
    )
    for name in identities if destination.identity else []:
        if not Path(name).is_file():
            raise UsageProblem(f"identity file {name} is not there")
    only = settings.get("identitiesonly", "no").lower() == "yes"
    host = settings.get("hostkeyalias") or settings["hostname"]
    return {
        "hostname": host,
        "port": settings["port"],
        "username": settings["user"],
        "key_filename": [
            str(Path(name).expanduser()) for name in identities if Path(name).expanduser().is_file()
        ],
        "allow_agent": not only,
        "look_for_keys": not identities,
        "timeout": float(settings.get("connecttimeout", CONNECT_TIMEOUT_S)),
        "banner_timeout": CONNECT_TIMEOUT_S,
        "auth_timeout": CONNECT_TIMEOUT_S,
        "sock": _socket(settings),
    }


def _socket(settings: dict[str, Any]) -> Any:
    """The socket to speak SSH on: direct (no delay for small frames), or a proxy command's."""

    command = settings.get("proxycommand")
    jump = settings.get("proxyjump")
    if jump and jump.lower() != "none":
        *before, last = jump.split(",")
        chain = ["-J", ",".join(before)] if before else []
        target = f"[{settings['hostname']}]:{settings['port']}"
        command = shlex.join(["ssh", *chain, "-W", target, last])
    if command and command.lower() != "none":
        return paramiko.ProxyCommand(command)
    timeout = float(settings.get("connecttimeout", CONNECT_TIMEOUT_S))
    sock = socket.create_connection((settings["hostname"], settings["port"]), timeout=timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # with a Ping a second always unacknowledged, this bounds how long a cut goes unnoticed (tcp(7))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LINK_TIMEOUT_S * 1000)
    return sock


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the name is not known"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def _as_socket(channel: paramiko.Channel) -> socket.socket:
    """A real socket, pumped to and from *channel* by two threads: TLS wants a descriptor."""
    ours, theirs = socket.socketpair()

    def outward() -> None:
        with suppress(OSError, EOFError):
            while data := theirs.recv(1 << 16):
                channel.sendall(data)
            channel.shutdown_write()

    def inward() -> None:
        with suppress(OSError, EOFError):
            while data := channel.recv(1 << 16):
                theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)

    for work in (outward, inward):
        threading.Thread(target=work, name=f"ssh-forward-{work.__name__}", daemon=True).start()
    return ours
