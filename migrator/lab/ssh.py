"""SSH between the hosts of a lab: keys and configuration of its own, nobody else's are read.

sshd_config(5), ssh_config(5). Everything lies in the lab's directory and goes with it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from migrator.lab.errors import LabError, StepFailed
from migrator.lab.layout import Layout, Node

_SSHD_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"


def find_sshd() -> str:
    """The path of sshd, which insists on being started by an absolute one."""
    found = shutil.which("sshd", path=_SSHD_PLACES)
    if found is None:
        raise LabError("sshd is not installed: install openssh-server (it need not be running)")
    return found


def write_files(layout: Layout, environments: Mapping[str, Mapping[str, str]]) -> None:
    """Make keys, known_hosts, authorized_keys, ssh_config and each host's sshd_config.

    environments: what a session on each host finds, before the login shell adds its own.
    """
    top = layout.directory
    public = _make_key(top / "id_ed25519", f"lab {layout.name}")
    (top / "authorized_keys").write_text(public)
    known = [f"{h.name} {_make_key(_host_key(h), h.name)}" for h in layout.hosts]
    (top / "known_hosts").write_text("".join(known))
    layout.ssh_config.write_text(_client_config(layout))
    for host in layout.hosts:
        sshd_config(host).write_text(_server_config(layout, host, environments[host.name]))


def sshd_config(host: Node) -> Path:
    """Where a host's sshd finds its configuration."""
    return host.directory / "sshd_config"


def _host_key(host: Node) -> Path:
    return host.directory / "host_ed25519"


def _make_key(path: Path, comment: str) -> str:
    """Make a key pair and return the public half, as one line."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"make the key {path}", done.stderr.strip())
    return path.with_suffix(".pub").read_text()


def _client_config(layout: Layout) -> str:
    hosts = "".join(
        f"Host {h.name}\n    HostName {h.address}\n    HostKeyAlias {h.name}\n"
        for h in layout.hosts
    )
    return f"""{hosts}
Host *
    User root
    IdentityFile {layout.directory}/id_ed25519
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {layout.directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    BatchMode yes
    ConnectTimeout 3
    LogLevel ERROR
"""


def _server_config(layout: Layout, host: Node, environment: Mapping[str, str]) -> str:
    set_env = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return f"""ListenAddress {host.address}
HostKey {_host_key(host)}
PidFile none
AuthorizedKeysFile {layout.directory}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PermitUserRC no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
SetEnv {set_env}
Subsystem sftp internal-sftp
"""
