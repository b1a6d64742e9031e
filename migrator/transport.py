"""SSH to the destination by paramiko: one connection, its agent, and what both sides' settings say.

Honours ssh_config(5) as migrator.ssh_config reads it, known_hosts and the running ssh-agent. A host
whose key is unknown or has changed is refused, unless ``StrictHostKeyChecking no`` or
``accept-new`` is said there (then an unknown, never a changed, key is taken for this run). A key
that known_hosts has as ``@revoked`` for any host is refused in any case.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import threading
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from criu_rpc.logger import Logger
from migrator import ssh_config
from migrator.dataplane import LINK_TIMEOUT_S
from migrator.errors import DestinationUnreachable
from migrator.plan import Destination
from migrator.ssh_config import CONNECT_TIMEOUT_S, SshSettings
from migrator.ssh_proxy import Proxy

logger = Logger(__name__)
# Else its threads print tracebacks: what ends a connection is in the error that we raise.
logging.getLogger(paramiko.__name__).addHandler(logging.NullHandler())

# paramiko's words, of no class of its own, when there is no key at all
_NO_KEY = "No authentication methods available"


class SshConnection:
    """An authenticated connection. A context manager: leaving it ends the agent's channel."""

    def __init__(
        self, client: paramiko.SSHClient, destination: Destination, proxy: Proxy | None
    ) -> None:
        self._client = client
        self._proxy = proxy
        self.destination = destination

    @classmethod
    def open(cls, destination: Destination) -> SshConnection:
        """Connect and authenticate; DestinationUnreachable says what failed and what to do."""
        settings = ssh_config.read(destination)
        client, proxy = paramiko.SSHClient(), None
        known_hosts = list(_known_hosts(settings.known_hosts))
        _load(client.get_host_keys(), known_hosts)
        client.set_missing_host_key_policy(_policy(settings, destination))
        try:
            if settings.proxy_command:
                proxy = Proxy(settings.proxy_command)
            sock = proxy.socket if proxy else _socket(settings)
            client.connect(sock=sock, **_connect_arguments(settings))
            _ensure_not_revoked(client, known_hosts, destination)
        except BaseException as error:
            why = _why(error, settings, destination, proxy.complaint() if proxy else "")
            client.close()
            if proxy:
                proxy.close()
            if why:
                raise DestinationUnreachable(why) from error
            raise
        return cls(client, destination, proxy)

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
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

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


def _known_hosts(files: Iterable[Path]) -> Iterator[list[str]]:
    """The fields of each line of all known_hosts. sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    for path in files:
        with suppress(OSError):
            text = path.read_text(errors="replace")
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


def _ensure_not_revoked(
    client: paramiko.SSHClient, known_hosts: Iterable[list[str]], destination: Destination
) -> None:
    transport = client.get_transport()
    assert transport is not None
    if transport.get_remote_server_key().get_base64() in _revoked(known_hosts):
        raise DestinationUnreachable(
            f"the host key of {destination.host} is revoked in known_hosts: it must not be used"
        )


def _policy(settings: SshSettings, destination: Destination) -> paramiko.MissingHostKeyPolicy:

    class Refuse(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            raise DestinationUnreachable(
                f"the host key of {destination.host} is not known: run `ssh {settings.user}@"
                f"{destination.host}` once and check its fingerprint ({key.get_name()} "
                f"{key.fingerprint})"
            )

    return paramiko.AutoAddPolicy() if settings.accept_new else Refuse()


def _connect_arguments(settings: SshSettings) -> dict[str, Any]:
    return {
        # under this name, and no port, its key is looked for; the socket knows where it goes
        "hostname": settings.known_as,
        "username": settings.user,
        "pkey": _key_of_agent(settings.identities) if settings.agent else None,
        "key_filename": [str(path) for path in settings.identities if path.suffix != ".pub"],
        "allow_agent": settings.agent and not settings.identities_only,
        "look_for_keys": False,
        "timeout": settings.connect_timeout_s,
        "banner_timeout": CONNECT_TIMEOUT_S,
        "auth_timeout": CONNECT_TIMEOUT_S,
    }


def _key_of_agent(identities: Iterable[Path]) -> paramiko.PKey | None:
    """The first of the agent's keys that is one of *identities*, told by its public half.

    With IdentitiesOnly too these are asked for: the file may have a passphrase, or be public only.
    """
    wanted = set()
    for path in identities:
        with suppress(OSError, IndexError, ValueError):
            public = path if path.suffix == ".pub" else Path(f"{path}.pub")
            wanted.add(b64decode(public.read_text().split()[1]))
    keys = paramiko.Agent().get_keys() if wanted else ()
    return next((key for key in keys if key.asbytes() in wanted), None)


def _socket(settings: SshSettings) -> socket.socket:
    """The way to its sshd, with no delay for small frames."""
    to, timeout_s = (settings.hostname, settings.port), settings.connect_timeout_s
    sock = socket.create_connection(to, timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # with a Ping a second always unacknowledged, this bounds how long a cut goes unnoticed (tcp(7))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LINK_TIMEOUT_S * 1000)
    return sock


def _why(
    error: BaseException, settings: SshSettings, destination: Destination, proxy_said: str
) -> str:
    """What a failed connection comes to, and its remedy; "" for what says it already."""
    host, login = destination.host, f"{settings.user}@{destination.host}"
    if isinstance(error, paramiko.BadHostKeyException):
        return (
            f"the host key of {host} is not the one in known_hosts ({error.key.get_name()} "
            f"{error.key.fingerprint}): if the host was reinstalled, run: ssh-keygen -R "
            f"{shlex.quote(settings.known_as)}"
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        return (
            f"{host} accepts no key of ours for {settings.user}, and one that could not be tried "
            "has a passphrase: give it to ssh-agent by ssh-add, or name another key with -i"
        )
    if isinstance(error, paramiko.AuthenticationException) or str(error) == _NO_KEY:
        return (
            f"{host} accepts no key of ours for {settings.user}: check that `ssh {login}` works "
            "without a password, or name a key with -i"
        )
    if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
        return f"cannot reach {host} by ssh: {proxy_said or _reason(error)}"
    return ""


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
