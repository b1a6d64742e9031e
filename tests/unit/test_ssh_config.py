"""Where a connection goes, and with which keys, as ssh(1) itself reads its configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest

from migrator import ssh_config
from migrator.errors import UsageProblem
from migrator.plan import Destination
from migrator.ssh_config import SshSettings

pytestmark = pytest.mark.needs_sshd

Read = Callable[..., SshSettings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """What the configuration *text* comes to for the destination "beta"."""

    def read(text: str, to: str = "beta", **more: Path) -> SshSettings:
        (tmp_path / "config").write_text(text)
        return ssh_config.read(Destination.parse(to, ssh_config=tmp_path / "config", **more))

    return read


def test_what_is_included_counts(read: Read, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host beta\n HostName 10.1.2.3\n Port 2200\n User ann\n")
    found = read(f"Include {tmp_path}/more\n")
    assert (found.hostname, found.port, found.user) == ("10.1.2.3", 2200, "ann")


def test_a_match_may_run_a_command(read: Read) -> None:
    assert read('Match host beta exec "true"\n User bea\n').user == "bea"


def test_the_destination_comes_first(read: Read) -> None:
    found = read("User ann\nPort 2200\n", "bea@beta:2201")
    assert (found.user, found.port) == ("bea", 2201)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "beta"),
        ("HostName 10.1.2.3\n", "10.1.2.3"),
        ("HostName 10.1.2.3\nPort 2200\n", "[10.1.2.3]:2200"),
        ("Port 2200\nHostKeyAlias twin\n", "twin"),
    ],
)
def test_the_name_by_which_its_key_is_known(read: Read, text: str, name: str) -> None:
    assert read(text).known_as == name


@pytest.mark.parametrize(
    ("word", "accepted"), [("ask", False), ("yes", False), ("no", True), ("accept-new", True)]
)
def test_whether_an_unknown_host_is_accepted(read: Read, word: str, accepted: bool) -> None:
    assert read(f"StrictHostKeyChecking {word}\n").accept_new is accepted


def test_tokens_in_the_names_of_files(read: Read, tmp_path: Path) -> None:
    (tmp_path / "beta-ann").touch()
    names = f"IdentityFile {tmp_path}/%n-%r\nUserKnownHostsFile {tmp_path}/%h-%r\n"
    found = read(f"User ann\nGlobalKnownHostsFile none\n{names}")
    assert found.identities == found.known_hosts == (tmp_path / "beta-ann",)


def test_a_jump_reads_the_same_configuration(read: Read, tmp_path: Path) -> None:
    found = read("ProxyJump one,ann@two:2200\n")
    expected = f"ssh -F {tmp_path}/config -J one -W '[beta]:22' ssh://ann@two:2200"
    assert found.proxy_command == expected


def test_a_proxy_command_has_its_tokens_filled_in(read: Read) -> None:
    assert read("ProxyCommand nc %h %p 100%%\n").proxy_command == "nc beta 22 100%"
    assert read("ProxyCommand none\n").proxy_command == ""


def test_an_agent_may_be_left_alone(read: Read) -> None:
    assert read("").agent
    assert not read("IdentityAgent none\n").agent


@pytest.mark.parametrize("text", ["Port many\n", "NoSuchWord yes\n"])
def test_a_configuration_that_ssh_refuses(read: Read, text: str) -> None:
    with pytest.raises(UsageProblem, match=r"ssh refuses its configuration for beta: .*line 1"):
        read(text)


def test_an_identity_that_is_not_there(read: Read, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"identity file .*/none is not there"):
        read("", identity=tmp_path / "none")


def test_a_host_without_ssh(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageProblem, match="ssh is not installed here"):
        read("")
