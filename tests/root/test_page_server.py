"""Pages from a page server: lost connections, killed servers, strangers, and CRIU's own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from criu_rpc import find_criu
from migrator.tls import Credentials
from runtime.memory.lazy.split_images import read_split
from tests.root.test_lazy_restore import RESTORE, WHOLE, Tree, restore
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu, pytest.mark.needs_userfaultfd]

MIGRATOR = Path(sys.executable).with_name("migrator")


class Hosts:
    """One with the pages of a dumped tree, and one with its other images; commands on both."""

    def __init__(self, tree: Tree) -> None:
        tree.dump()
        self.tree, self.here = tree, tree.room / "here"
        self.here.mkdir()
        for path in tree.images.iterdir():
            if not path.name.startswith("pages-"):
                (self.here / path.name).write_bytes(path.read_bytes())
        self.port = free_port()
        self.started: list[subprocess.Popen[str]] = []
        for name in ("client", "server", "stranger"):
            made = Credentials.make()
            (tree.room / f"{name}.key").write_bytes(made.key)
            (tree.room / f"{name}.pem").write_text(made.certificate)

    def tls(self, own: str, peer: str) -> list[str]:
        room = self.tree.room
        files = {"cert": f"{own}.pem", "key": f"{own}.key", "ca": f"{peer}.pem"}
        return [f"--tls-{name}={room}/{file}" for name, file in files.items()]

    def run(self, *words: str, ready: bool = True) -> subprocess.Popen[str]:
        """Start a command; returns when it says that it is ready."""
        said, said_in = os.pipe()
        process = subprocess.Popen(
            [MIGRATOR, *words, "--status-fd", str(said_in)],
            pass_fds=[said_in],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        os.close(said_in)
        if ready:
            assert os.read(said, 1) == b"\0", said_by(process)
        os.close(said)
        return process

    def serve(self, *words: str, tls: bool = True) -> subprocess.Popen[str]:
        listen = ["--listen", f"127.0.0.1:{self.port}", *words]
        trust = self.tls("server", "client") if tls else []
        return self.run("page-server", "--images", str(self.tree.images), *listen, *trust)

    def fetch(self, *words: str, own: str = "client", **options: bool) -> subprocess.Popen[str]:
        trust = [*self.tls(own, "server"), "--tls-no-cn-verify"]
        return self.run(*self.fetching(), *trust, *words, **options)

    def fetching(self) -> list[str]:
        server = f"127.0.0.1:{self.port}"
        return ["lazy-pages", "-D", str(self.here), "--page-server", server]

    def restore(self) -> subprocess.Popen[str]:
        """Begin one, which waits for pages too, and return when it has opened all images."""
        command = [str(find_criu()), *RESTORE, "-D", str(self.here), "-v4"]
        criu = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.started.append(criu)
        log = self.here / "restore.log"
        assert eventually(log.exists)
        begun = eventually(lambda: criu.poll() or "closing uffd" in log.read_text())
        assert begun, log.read_text()[-2000:]
        assert criu.poll() is None, log.read_text()[-2000:]
        return criu

    def sweep(self) -> None:
        for process in self.started:
            with process:
                process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def hosts(room: Path) -> Iterator[Hosts]:
    tree = Tree(room)
    try:
        hosts = Hosts(tree)
        yield hosts
        hosts.sweep()
    finally:
        tree.sweep()


def test_every_page_arrives_though_the_page_server_is_killed(hosts: Hosts) -> None:
    source = hosts.serve()
    lazy = hosts.fetch()
    source.kill()
    criu = hosts.restore()
    (hosts.tree.room / "go").touch()
    for _ in range(3):
        source = hosts.serve()
        time.sleep(0.05)
        source.kill()
        source.wait()
    source = hosts.serve()
    assert hosts.tree.whole() == WHOLE
    assert (criu.wait(20), lazy.wait(20), source.wait(20)) == (0, 0, 0)
    assert not list(hosts.here.glob("*pages-*.img*"))
    assert "trying again" in said_by(lazy)


def test_the_command_connects_a_server_that_it_has_left_behind(hosts: Hosts) -> None:
    source = hosts.serve()
    lazy = hosts.fetch()
    source.kill()
    criu = hosts.restore()
    time.sleep(0.3)  # for the server to have taken what criu has sent
    lazy.send_signal(signal.SIGINT)
    assert lazy.wait(20) == 130
    source = hosts.serve()
    lazy = hosts.fetch()
    assert criu.wait(20) == 0, (hosts.here / "restore.log").read_text()[-2000:]
    assert hosts.tree.whole() == WHOLE
    assert (lazy.wait(20), source.wait(20)) == (0, 0)
    assert "connecting its server again" in said_by(lazy)


def test_a_page_server_that_stays_away_is_given_up(hosts: Hosts) -> None:
    source = hosts.serve()
    lazy = hosts.fetch("--give-up-after", "1")
    source.send_signal(signal.SIGSTOP)  # silent, but not lost: not given up before criu has come
    criu = hosts.restore()
    source.kill()
    assert lazy.wait(20) == 1
    assert "the source was not heard of" in said_by(lazy)
    assert criu.wait(20) == 1
    assert not alive(hosts.tree.child.pid)


def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    return process.stderr.read()


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_strangers_and_other_images_are_refused(hosts: Hosts) -> None:
    hosts.serve()
    lazy = hosts.fetch(own="stranger", ready=False)
    assert (lazy.wait(20), "no trust between" in said_by(lazy)) == (1, True)
    plain = hosts.run(*hosts.fetching(), "--give-up-after", "0.2", ready=False)
    assert plain.wait(20) == 5
    (hosts.here / "inventory.img").write_bytes((hosts.here / "inventory.img").read_bytes() + b"\0")
    lazy = hosts.fetch(ready=False)
    assert (lazy.wait(20), "its images are others" in said_by(lazy)) == (1, True)
    whole = hosts.run(
        "lazy-pages", "-D", str(hosts.tree.images), *hosts.fetching()[3:], ready=False
    )
    assert (whole.wait(20), "is here already" in said_by(whole)) == (1, True)


def test_memory_goes_over_a_network_only_encrypted_or_when_that_is_wanted(hosts: Hosts) -> None:
    refused = hosts.run("page-server", "--listen", "0.0.0.0:0", ready=False)
    assert (refused.wait(20), "--plain" in said_by(refused)) == (1, True)
    source = hosts.serve("--plain", tls=False)
    lazy = hosts.run(*hosts.fetching(), "--plain")
    restore(hosts.tree, hosts.here)
    assert hosts.tree.whole() == WHOLE
    assert (lazy.wait(20), source.wait(5)) == (0, 0)


def test_criu_serves_when_it_is_asked_to(hosts: Hosts) -> None:
    failed = hosts.run("lazy-pages", "-D", str(hosts.tree.room), "--criu-daemon", ready=False)
    assert failed.wait(20) == 1
    assert "criu lazy-pages failed: " in said_by(failed)
    lazy = hosts.run("lazy-pages", "-D", str(hosts.tree.images), "--criu-daemon")
    restore(hosts.tree)
    assert (hosts.tree.whole(), lazy.wait(20)) == (WHOLE, 0)


def test_criu_serves_at_both_ends_where_pipes_may_be_large(hosts: Hosts) -> None:
    source = hosts.serve("--criu-daemon", tls=False)
    for path in read_split(hosts.tree.images).sizes:
        (hosts.here / path.name).write_bytes(path.read_bytes())
    lazy = hosts.run(*hosts.fetching(), "--criu-daemon")
    try:
        restore(hosts.tree, hosts.here)
        whole = hosts.tree.whole()
    except AssertionError:  # pipe(7), pipe-user-pages-soft: what the user's other processes hold
        assert (source.wait(20), "sysctl fs.pipe-max-size" in said_by(source)) == (1, True)
        assert (lazy.wait(20), "criu lazy-pages failed: " in said_by(lazy)) == (1, True)
    else:
        assert (whole, lazy.wait(20)) == (WHOLE, 0)
