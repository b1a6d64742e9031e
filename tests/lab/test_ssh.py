"""The ways to a destination that ssh_config(5) may name: other hosts, and keys of the agent."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.hosts import NEEDED, TwoHosts, make_bundle, nothing_left_behind, on_machine

pytestmark = NEEDED

NAME = "guest"


@pytest.fixture
def container(two_hosts: TwoHosts) -> Iterator[str]:
    """A running container on the source, without a network."""
    make_bundle(two_hosts.source, NAME, "sleep", "1000")
    start = f"exec migrator run -d -b /srv/{NAME} {NAME} </dev/null >/dev/null 2>&1"
    two_hosts.source.run("sh", "-c", start)
    yield NAME
    for host in (two_hosts.source, two_hosts.destination):
        host.run("migrator", "delete", "--force", NAME)
        host.run("rm", "-rf", f"/srv/{NAME}")


def configured(hosts: TwoHosts, text: str) -> str:
    """The lab's ssh_config with *text* before it; a path on the source."""
    here = on_machine(hosts.source, "/tmp/config")
    here.write_text(text + "\n" + Path(hosts.lab.ssh_config).read_text())
    return "/tmp/config"


def moved(hosts: TwoHosts, config: str, host: str, *before: str) -> str:
    """What a migration by *config* says that went wrong, "" when the container has moved."""
    argv = shlex.join(["migrator", "migrate", "-F", config, NAME, host])
    done = hosts.source.run("sh", "-c", "".join(before) + argv, check=False)
    if not done.returncode:
        assert hosts.destination.run("migrator", "list", "--quiet").stdout.strip() == NAME
    return done.stderr


@pytest.mark.parametrize(
    "way", ["ProxyJump root@beta:22", "ProxyCommand ssh -F /tmp/config -W %h:%p beta 2>/dev/null"]
)
def test_through_another_host(two_hosts: TwoHosts, container: str, way: str) -> None:
    address = two_hosts.destination.address
    config = configured(two_hosts, f"Host inner\n HostName {address}\n HostKeyAlias beta\n {way}\n")
    with nothing_left_behind(two_hosts.client):
        assert moved(two_hosts, config, "inner") == ""
    left = two_hosts.source.run("ps", "-eo", "args").stdout
    assert "ssh -F" not in left


def test_what_stands_in_the_way_of_a_jump_is_said(two_hosts: TwoHosts, container: str) -> None:
    config = configured(two_hosts, "Host inner\n ProxyJump nowhere.invalid\n")
    said = moved(two_hosts, config, "inner")
    assert "cannot reach inner by ssh: " in said
    assert "Could not resolve hostname nowhere.invalid" in said
    assert len(said.splitlines()) == 1


def test_a_key_with_a_passphrase_is_asked_of_the_agent(two_hosts: TwoHosts, container: str) -> None:
    lab = Path(two_hosts.lab.ssh_config).parent
    two_hosts.source.run(
        "sh", "-ec", f"cp {lab}/id_ed25519* /tmp; ssh-keygen -q -p -N word -f /tmp/id_ed25519"
    )
    text = "Host *\n IdentityFile /tmp/id_ed25519\n IdentityAgent SSH_AUTH_SOCK\n"
    config = on_machine(two_hosts.source, "/tmp/config")
    lines = Path(two_hosts.lab.ssh_config).read_text().splitlines(keepends=True)
    config.write_text(
        text + "".join(line for line in lines if "Identity" not in line) + " IdentitiesOnly yes\n"
    )
    said = moved(two_hosts, "/tmp/config", "root@beta")
    assert "has a passphrase: give it to ssh-agent by ssh-add" in said
    agent = "exec 2>/dev/null; eval $(ssh-agent) >&2; trap 'kill $SSH_AGENT_PID' EXIT; "
    unlocked = f"ssh-add {lab}/id_ed25519; exec 2>&1; "
    assert moved(two_hosts, "/tmp/config", "root@beta", agent, unlocked) == ""
