"""Checkpoint and restore of containers with a user namespace: who they are afterwards, and what
is theirs again.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import CheckpointFailed, Network, Networks, RestoreFailed, Terminal
from runtime.checkpoint import incremental
from runtime.checkpoint.options import CheckpointOptions
from runtime.network import link_exists
from tests.containers import Traces
from tests.migratory import COUNT, Migratory
from tests.network_hosts import network_host, network_peer, run
from tests.network_state import describe
from tests.root.test_checkpoint_network import connect, echoes
from tests.user_namespaces import (
    SIZE,
    UIDS,
    bind,
    give_user_namespace,
    ids,
    owners,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

LOOK = (
    "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; "
    "grep -E '^(Cap|Groups|NoNewPrivs)' /proc/self/status; "
    "stat -c '%A %u %g %t:%T %n' /dev /dev/* /dev/pts/* /proc/self; "
    "hostname; echo x > /dev/null; head -c 3 /dev/zero | wc -c"
)


@pytest.fixture
def user(migratory: Migratory) -> Migratory:
    """It counts in a user namespace of its own."""
    give_user_namespace(migratory.box.bundle)
    return migratory


def looks(user: Migratory) -> str:
    outcome = user.box.exec(user.container, LOOK)
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out


def test_it_is_who_it_was_again_and_again(user: Migratory) -> None:
    user.start()
    before = looks(user)
    assert f"0    {UIDS}      {SIZE}" in before
    for number in range(2):
        user.images = user.images.with_name(f"images-{number}")
        user.checkpoint()
        pid = user.restore().state.init_pid
        assert user.counts()
        assert looks(user) == before
        assert set(owners(pid).values()) == {True}
        assert os.stat(f"/proc/{pid}/root/tmp/count").st_uid == UIDS
        assert os.stat(f"/proc/{pid}").st_uid == UIDS


def test_a_refused_restore_leaves_nothing(user: Migratory) -> None:
    user.start().checkpoint()
    before = Traces.now(user.box.root)

    def refuse(notification: object) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        user.restore(on_notify=refuse)
    assert Traces.now(user.box.root) == before


def test_what_only_the_hosts_root_may_enter_is_mounted_again(user: Migratory) -> None:
    secret = user.box.bundle.path / "secret"
    below = secret / "shared/below"
    below.mkdir(parents=True)
    (secret / "shared/file").write_text("content\n")
    secret.chmod(0o700)
    subprocess.run(["mount", "-t", "tmpfs", f"{user.box.id}", below], check=True)
    try:
        (below / "deep").write_text("deep\n")
        mounts = [bind(secret / "shared", "/a", "rbind"), bind(secret / "shared/file", "/b")]
        user.box.update(mounts=[*user.box.bundle.spec["mounts"], *mounts])
        user.start().checkpoint()
        container = user.restore()
        outcome = user.box.exec(container, "cat /a/file /b /a/below/deep; ls /a/..")
        assert outcome.out.startswith("content\ncontent\ndeep\n")
        container.delete(force=True)
    finally:
        subprocess.run(["umount", below], check=True)


def test_limits_that_its_root_could_not_set_are_set_again(user: Migratory) -> None:
    limit = {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}
    user.box.update(process={"oomScoreAdj": 100, "rlimits": [limit]})
    user.start().checkpoint()
    pid = user.restore().state.init_pid
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "100\n"
    (files,) = (x for x in Path(f"/proc/{pid}/limits").read_text().split("\n") if "files" in x)
    assert files.split()[3:5] == ["64", "128"]


def test_a_terminal_is_taken_along(user: Migratory) -> None:
    with Terminal() as terminal:
        user.box.update(process={"terminal": True})
        user.start("read line; echo got $line; " + COUNT, terminal=terminal)
        user.checkpoint()
    with Terminal() as other:
        user.restore(terminal=other)
        os.write(other.master_fd, b"said\n")
        heard = b""
        while b"got said" not in heard:
            heard += os.read(other.master_fd, 100)
        assert user.counts()


def test_a_chain_of_pre_dumps_is_restored(user: Migratory) -> None:
    user.start()
    first = CheckpointOptions(image_path=user.images.with_name("before"))
    assert incremental.pre_dump(user.container, first, None).pages > 0
    incremental.checkpoint(user.container, CheckpointOptions(image_path=user.images), "../before")
    user.container.delete(force=True)
    user.restore()
    assert user.counts()


def test_images_that_others_may_not_read(user: Migratory) -> None:
    """Where nobody but root comes to them they are given to be read, else that is left alone."""
    user.start().checkpoint()
    image = user.images / "inventory.img"
    image.chmod(0o600)
    user.images.chmod(0o711)
    with pytest.raises(
        RestoreFailed, match=r"inventory\.img: .* others have to be allowed to read"
    ):
        user.restore()
    user.images.chmod(0o700)
    user.restore()
    assert user.counts()


def test_other_users_are_refused(user: Migratory) -> None:
    user.start().checkpoint()
    user.box.update(linux={"uidMappings": [ids(UIDS + SIZE)]})
    with pytest.raises(RestoreFailed, match="other uidMappings or gidMappings"):
        user.restore()


def test_criu_finds_its_configuration_wherever_that_is(user: Migratory) -> None:
    """It passes over one that is not there."""
    config = Path("/mnt", f"{user.box.id}.conf")
    config.write_text("log-file other.log\n")
    try:
        user.box.update(annotations={"org.criu.config": str(config)})
        user.start().checkpoint()
        (user.images / "other.log").unlink()
        user.restore()
        assert (user.images / "other.log").exists()
    finally:
        config.unlink()


def test_one_that_had_none_gets_none(migratory: Migratory) -> None:
    migratory.start().checkpoint()
    give_user_namespace(migratory.box.bundle)
    with pytest.raises(RestoreFailed, match="had no user namespace"):
        migratory.restore()


@pytest.mark.needs_restricted_userfaultfd
def test_pages_wait_only_where_the_kernel_lets_them(user: Migratory) -> None:
    user.start().checkpoint()
    with pytest.raises(RestoreFailed, match=r"vm\.unprivileged_userfaultfd=1"):
        user.restore(lazy_pages=True)


@pytest.mark.parametrize("kind", ["user", "ipc"])
def test_what_does_not_belong_to_it_is_refused_by_name(user: Migratory, kind: str) -> None:
    first = user.box.start("first")
    spec = user.box.bundle.spec
    path = f"/proc/{first.state.init_pid}/ns/user" if kind == "user" else "/proc/self/ns/ipc"
    for each in spec["linux"]["namespaces"]:
        if each["type"] == kind:
            each["path"] = path
    spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "mqueue"]
    if kind == "user":
        del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
    user.box.bundle.write(spec)
    user.start()
    with pytest.raises(CheckpointFailed, match=f"{kind} namespace {path}"):
        user.checkpoint()
    assert user.counts()


@pytest.mark.needs_veth
@pytest.mark.needs_bridge
@pytest.mark.parametrize("own_network", [False, True])
def test_a_connection_survives_on_another_bridge(
    user: Migratory, peer: Path, own_network: bool
) -> None:
    eth0 = Network(type="veth", name="eth0", bridge="br0", address="10.1.0.2/24", mtu=1400)
    user.start(f"nc -ll -p 7000 -e cat & {COUNT}", networks=Networks((eth0,)))
    before = describe(user.container.state.init_pid)
    with connect(peer) as connection:
        assert echoes(connection, b"before")
        user.checkpoint(tcp_established=True, own_network=own_network)
        connection.sendall(b"meanwhile\n")
        run("ip", "link", "set", "peer0", "master", "br1")
        container = user.restore("-moved", veths={"eth0": "moved0@br1"})
        assert connection.recv(100) == b"meanwhile\n"
        assert echoes(connection, b"after")
    pid = container.state.init_pid
    after = describe(pid)
    assert (after["interfaces"], after["routes"]) == (before["interfaces"], before["routes"])
    assert owners(pid)["net"]
    container.delete(force=True)
    assert not link_exists("moved0")


@pytest.fixture
def peer(name: str) -> Iterator[Path]:
    """Another host on br0 of the one that the test is then in."""
    with network_host(name, "br0", "br1"):
        run("ip", "link", "set", "lo", "up")  # CRIU probes TCP over it
        with network_peer(name, "10.1.0.1/24") as path:
            yield path


@pytest.mark.vm
def test_its_cgroups_are_shown_again(user: Migratory) -> None:
    """On v2 by a filesystem of its own, which CRIU cannot make there."""
    where = "/sys/fs/cgroup"
    mount = {"destination": where, "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    user.box.update(mounts=[*user.box.bundle.spec["mounts"], mount])
    look = f"cat {where}/pids/cgroup.procs 2> /dev/null || cat {where}/cgroup.procs"
    user.start()
    assert "1\n" in user.box.exec(user.container, look).out
    for number in range(2):
        user.images = user.images.with_name(f"images-{number}")
        user.checkpoint()
        container = user.restore()
        assert "1\n" in user.box.exec(container, look).out
