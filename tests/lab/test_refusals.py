"""What cannot be migrated is refused by one clear line; the container runs on, nothing is left."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.lab.host import Host
from tests.lab.hosts import NEEDED, TwoHosts, make_bundle, nothing_left_behind, on_machine

pytestmark = NEEDED

NAME = "stays"
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def container(two_hosts: TwoHosts) -> Iterator[str]:
    """A running container on the source; it runs there afterwards, and nothing was left."""
    source, destination = two_hosts.source, two_hosts.destination
    make_bundle(source, NAME, "sleep", "1000")
    run(source, NAME, bridge=source.bridge)
    destination.run("migrator", "list")
    with nothing_left_behind(source, destination):
        yield NAME
    assert state(source, NAME) == "running"


def run(host: Host, name: str, *, bridge: str) -> None:
    script = 'exec </dev/null >/dev/null 2>&1; exec migrator run -d --network "$1" -b "$2" "$3"'
    network = f"type=veth,name=eth0,bridge={bridge},address=10.77.8.8/16"
    host.run("sh", "-c", script, "sh", network, f"/srv/{name}", name)


def state(host: Host, name: str) -> str:
    listed = host.run("migrator", "list").stdout.splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in listed}.get(name, "gone")


def refused(hosts: TwoHosts, *arguments: str, status: int) -> str:
    """The one line of a migration that must fail with that exit status."""
    done = hosts.source.run("migrator", "migrate", *arguments, check=False)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def to(hosts: TwoHosts, *more: str, host: str = "") -> tuple[str, ...]:
    """The arguments of a migration of the container, as a user would give them."""
    *options, destination = hosts.to_destination
    return *options, *more, NAME, host or destination


def test_an_unknown_container(two_hosts: TwoHosts) -> None:
    said = refused(two_hosts, *two_hosts.to_destination[:2], "nobody", "root@beta", status=1)
    assert "container nobody does not exist" in said


def test_a_paused_container(two_hosts: TwoHosts, container: str) -> None:
    two_hosts.source.run("migrator", "pause", container)
    said = refused(two_hosts, *to(two_hosts), status=1)
    two_hosts.source.run("migrator", "resume", container)
    assert "stays is paused, not running" in said


def test_a_host_that_is_not_there(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, host="root@10.77.250.250"), status=4)
    assert "cannot reach 10.77.250.250 by ssh" in said


def test_a_name_that_is_no_host(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, host="root@nowhere.invalid"), status=4)
    assert "cannot reach nowhere.invalid by ssh: the name is not known" in said


def test_another_host_key_than_the_known_one(two_hosts: TwoHosts, container: str) -> None:
    config = with_known_hosts(two_hosts, swapped)
    said = refused(two_hosts, "-F", config, NAME, "root@beta", status=4)
    forget_known_hosts(two_hosts)
    assert "host key of beta is not the one in known_hosts" in said
    assert "ssh-keygen -R" in said


def test_a_host_key_that_nobody_knows(two_hosts: TwoHosts, container: str) -> None:
    config = with_known_hosts(two_hosts, lambda lines: [])
    said = refused(two_hosts, "-F", config, NAME, "root@beta", status=4)
    forget_known_hosts(two_hosts)
    assert "the host key of beta is not known: run `ssh" in said


def test_a_host_key_that_was_revoked(two_hosts: TwoHosts, container: str) -> None:
    config = with_known_hosts(two_hosts, revoked)
    said = refused(two_hosts, "-F", config, NAME, "root@beta", status=4)
    forget_known_hosts(two_hosts)
    assert "the host key of beta is revoked" in said


def test_no_key_that_the_host_accepts(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, host="nobody@beta"), status=4)
    assert "accepts no key of ours for nobody" in said


def test_no_migrator_at_the_destination(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, "--agent", "/opt/nothing/migrator"), status=4)
    assert "cannot be run on beta: install migrator there, or name its path with --agent" in said


def test_something_else_than_migrator_at_the_destination(
    two_hosts: TwoHosts, container: str
) -> None:
    said = refused(two_hosts, *to(two_hosts, "--agent", "echo hello; exit 3;"), status=4)
    assert "is the same version of migrator installed on both hosts?" in said


def test_the_id_is_taken_there(two_hosts: TwoHosts, container: str) -> None:
    there = two_hosts.destination
    make_bundle(there, "other", "sleep", "1000")
    run(there, "other", bridge=there.bridge)
    there.run("mv", "/run/migrator/other", f"/run/migrator/{NAME}")
    try:
        said = refused(two_hosts, *to(two_hosts), status=3)
    finally:
        there.run("mv", f"/run/migrator/{NAME}", "/run/migrator/other")
    assert "a container stays exists there: delete or rename it" in said
    assert state(there, "other") == "running"
    there.run("migrator", "delete", "--force", "other")
    there.run("rm", "-rf", "/srv/other")


def test_the_bridge_is_missing_there(two_hosts: TwoHosts, container: str) -> None:
    config = str(two_hosts.lab.ssh_config)
    said = refused(two_hosts, "-F", config, NAME, "root@beta", status=3)
    assert "bridge br0 is not there: create it, or map one that is with --bridge OLD=NEW" in said


def test_a_bridge_that_the_container_does_not_use(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, "--bridge", "br5=br7"), status=3)
    assert "has no interface on br5" in said


def test_files_of_somebody_else_are_in_the_way(two_hosts: TwoHosts, container: str) -> None:
    there = on_machine(two_hosts.destination, f"/srv/{NAME}")
    there.mkdir()
    (there / "precious").write_text("mine")
    said = refused(two_hosts, *to(two_hosts), status=3)
    assert "exists there and is not stays's: remove it, or give --bundle PATH" in said
    assert (there / "precious").read_text() == "mine"
    shutil.rmtree(there)


def test_no_room_for_the_files_there(two_hosts: TwoHosts, container: str) -> None:
    there = two_hosts.destination
    there.run("sh", "-c", "mkdir /srv/small; mount -t tmpfs -o size=1m small /srv/small")
    try:
        said = refused(two_hosts, *to(two_hosts, "--bundle", "/srv/small/b"), status=3)
    finally:
        there.run("sh", "-c", "umount /srv/small; rmdir /srv/small /run/mount")
    assert "/srv/small has" in said
    assert "make room, or give --bundle PATH" in said


def test_a_criu_that_is_too_old_there(two_hosts: TwoHosts, container: str) -> None:
    script = on_machine(two_hosts.destination, "/srv/criu")
    reply = {"type": "VERSION", "success": True, "version": {"major_number": 3, "minor_number": 17}}
    steps = json.dumps([{"expect": "VERSION"}, {"reply": reply}, {"expect": "the end"}])
    script.write_text(
        f"#!/bin/sh\nFAKE_CRIU_SCRIPT='{steps}' FAKE_CRIU_HEARD=/dev/null PYTHONPATH={PROJECT} "
        f'exec {sys.executable} {PROJECT}/tests/fakes/criu.py "$@"\n'
    )
    script.chmod(0o755)
    said = refused(two_hosts, *to(two_hosts, "--agent", "migrator --criu /srv/criu"), status=3)
    script.unlink()
    assert "criu 3.17 is too old for this kernel" in said
    assert "update it there" in said


def test_no_criu_there(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, *to(two_hosts, "--agent", "migrator --criu /srv/none"), status=3)
    assert "no criu program at /srv/none" in said


def test_no_ssh_configuration_of_that_name(two_hosts: TwoHosts, container: str) -> None:
    said = refused(two_hosts, "-F", "/srv/none", NAME, "root@beta", status=1)
    assert "ssh configuration /srv/none is not there" in said


def with_known_hosts(hosts: TwoHosts, change: Callable[[list[str]], list[str]]) -> str:
    """A copy of the lab's ssh_config whose known_hosts was changed; a path on the source."""
    directory = Path(hosts.lab.ssh_config).parent
    known = (directory / "known_hosts").read_text().splitlines()
    here = on_machine(hosts.source, "/tmp")
    (here / "known").write_text("\n".join(change(known)) + "\n")
    text = Path(hosts.lab.ssh_config).read_text()
    lines = [line for line in text.splitlines() if "KnownHostsFile" not in line]
    (here / "config").write_text("\n".join([*lines, "  UserKnownHostsFile /tmp/known"]) + "\n")
    return "/tmp/config"


def forget_known_hosts(hosts: TwoHosts) -> None:
    for name in ("known", "config"):
        (on_machine(hosts.source, "/tmp") / name).unlink()


def revoked(lines: list[str]) -> list[str]:
    """Every host with its own key, which none may have any more."""
    return [*lines, *(f"@revoked * {line.split(None, 1)[1]}" for line in lines)]


def swapped(lines: list[str]) -> list[str]:
    """Every host with the key of another."""
    names = [line.split(None, 1)[0] for line in lines]
    keys = [line.split(None, 1)[1] for line in lines]
    return [f"{name} {key}" for name, key in zip(names, keys[1:] + keys[:1], strict=True)]
