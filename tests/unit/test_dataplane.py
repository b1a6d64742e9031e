"""The data plane on loopback: TLS that accepts one peer alone, image files, rsync's two halves."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress

import pytest

from migrator import dataplane, images, rootfs
from migrator.bandwidth import Limiter
from migrator.errors import MigrationError, PeerLost, ProtocolError
from migrator.final_sync import FinalSync
from migrator.rootfs_changes import Snapshot
from migrator.source import files_below
from migrator.tls import Credentials


class Pair:
    """A listener and what connects to it; served streams go to *serve*, errors are kept."""

    def __init__(self) -> None:
        self.ours, self.theirs = Credentials.make(), Credentials.make()
        self.serve = lambda header, stream: None
        self.errors: list[BaseException] = []
        self.listener = dataplane.Listener(
            "127.0.0.1", self.theirs.context(self.ours.certificate, server=True), self._serve
        )

    def _serve(self, header, stream):
        try:
            self.serve(header, stream)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.errors.append(error)

    def connect(self, kind="test", credentials=None):
        context = (credentials or self.ours).context(self.theirs.certificate, server=False)
        return dataplane.connect(
            "127.0.0.1", self.listener.port, context, {"stream": kind}, _no_forward, "127.0.0.1"
        )


def _no_forward(address, port):
    raise AssertionError("the direct way was there")


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.listener.close()


def test_a_stream_begins_with_its_header(pair):
    got, done = [], threading.Event()

    def serve(header, stream):
        got.append(header)
        stream.sendall(b"!")
        done.set()

    pair.serve = serve
    with pair.connect("rsync") as stream:
        assert stream.recv(1) == b"!"
    assert done.wait(5)
    assert got == [{"stream": "rsync"}]


@pytest.mark.parametrize("ended_at", ["here", "there"])
def test_a_stream_that_another_thread_ends_carries_data_alone(pair, ended_at):
    """Neither TLS's records come out as data, nor does data leave in the clear."""
    came, ended, data = bytearray(), threading.Event(), b"data" * (1 << 18)

    def serve(_, stream):
        with suppress(OSError):
            while received := stream.recv(4096):
                came.extend(received)
                time.sleep(1e-4)
        ended.set()

    def send():
        with suppress(OSError):
            while True:
                stream.sendall(data)

    pair.serve = serve
    with pair.connect() as stream:
        sender = threading.Thread(target=send)
        sender.start()
        while len(came) < 1 << 17:
            time.sleep(0.001)
        if ended_at == "here":
            pair.listener.close()
        else:
            dataplane.hang_up(stream)
        assert ended.wait(10)
        sender.join(10)
    assert bytes(came[: len(came) & ~3]) == b"data" * (len(came) // 4)


def test_who_closes_a_listener_finds_nobody_at_work_behind_it(pair, tmp_path):
    """What a stream writes to is removed then, and would be made again."""
    began = threading.Event()

    def serve(_, stream):
        began.set()
        while stream.recv(1):
            pass
        time.sleep(0.2)
        (tmp_path / "late").touch()

    pair.serve = serve
    with pair.connect():
        assert began.wait(5)
        pair.listener.close()
        assert (tmp_path / "late").exists()


def test_a_stranger_is_not_served(pair):
    served = []
    pair.serve = lambda header, stream: served.append(header)
    stranger = Credentials.make()

    def talk() -> bytes:
        with pair.connect(credentials=stranger) as stream:
            stream.settimeout(5)
            return stream.recv(1)

    # TLS 1.3: the client learns of the refusal only when it reads
    with pytest.raises((PeerLost, OSError)):
        assert talk() != b"", "closed without an alert"
    assert served == []


def test_a_listener_with_another_certificate_is_refused(pair):
    context = pair.ours.context(Credentials.make().certificate, server=False)
    with pytest.raises(PeerLost):
        dataplane.connect("127.0.0.1", pair.listener.port, context, {}, _no_forward, "127.0.0.1")


def test_an_unreachable_port_goes_through_the_forward(pair):
    pair.serve = lambda header, stream: stream.sendall(b"!")
    taken = []

    def forward(address, port):
        taken.append((address, port))
        return socket.create_connection((address, port))

    context = pair.ours.context(pair.theirs.certificate, server=False)
    with dataplane.connect(
        "127.0.0.1", pair.listener.port, context, {"stream": "x"}, forward, peer_address=""
    ) as stream:
        assert stream.recv(1) == b"!"
    assert taken == [("127.0.0.1", pair.listener.port)]


def send_images(pair, source, target):
    pair.serve = lambda header, stream: images.receive_images(stream, target)
    sender = images.ImageSender(source, pair.connect("images"))
    sender.start()
    return sender


def test_images_arrive_while_they_are_written(pair, tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    sender = send_images(pair, source, target)
    content = os.urandom(3 << 20)
    with (source / "pages-1.img").open("wb") as file:
        for at in range(0, len(content), 700_001):
            file.write(content[at : at + 700_001])
            file.flush()
    (source / "core-1.img").write_bytes(b"core")
    (source / "empty.img").write_bytes(b"")
    (source / "dump.log").write_bytes(b"stays")
    assert sender.finish() == {"pages-1.img": len(content), "core-1.img": 4, "empty.img": 0}
    assert images.sizes(target) == sender.finish()
    assert (target / "pages-1.img").read_bytes() == content
    assert not (target / "dump.log").exists()
    assert sender.bytes_sent == len(content) + 4
    assert all((target / name).stat().st_mode & 0o133 == 0 for name in images.sizes(target))


def test_image_files_and_the_tree_share_a_limit(pair, tmp_path):
    limiter = Limiter(4_000_000)
    source, target, tree, far = (tmp_path / name for name in ("source", "target", "tree", "far"))
    for path in (source, target, tree, far):
        path.mkdir()
    (source / "pages-1.img").write_bytes(os.urandom(1_000_000))
    (tree / "file").write_bytes(os.urandom(1_000_000))

    def serve(header, stream):
        if header["stream"] == "images":
            images.receive_images(stream, target)
        else:
            rootfs.serve(stream, far)

    pair.serve = serve
    began = time.monotonic()
    sender = images.ImageSender(source, pair.connect("images"), limiter)
    sender.start()
    with pair.connect("rsync") as stream:
        rootfs.push(tree, stream, limiter=limiter)
    assert sender.finish() == {"pages-1.img": 1_000_000}
    assert time.monotonic() - began > 0.4
    assert (far / "file").read_bytes() == (tree / "file").read_bytes()


def test_a_full_receiver_is_an_error_at_the_sender(pair, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "core-1.img").write_bytes(b"core")
    sender = send_images(pair, tmp_path / "s", tmp_path / "not-there")
    with pytest.raises(PeerLost):
        sender.finish()
    assert isinstance(pair.errors[0], FileNotFoundError)


@pytest.mark.parametrize("name", [b"../evil", b"/etc/x", b".hidden", b"a/b", b"a\0b"])
def test_hostile_image_names_are_refused(pair, tmp_path, name):
    pair.serve = lambda header, stream: images.receive_images(stream, tmp_path)
    with pair.connect() as stream:
        stream.sendall(struct.pack(">BHQI", 1, len(name), 0, 1) + name + b"x")
        stream.settimeout(5)
        assert stream.recv(1) == b""
    assert isinstance(pair.errors[0], ProtocolError)
    assert list(tmp_path.iterdir()) == []


def test_an_image_with_a_gap_is_refused(pair, tmp_path):
    pair.serve = lambda header, stream: images.receive_images(stream, tmp_path)
    with pair.connect() as stream:
        stream.sendall(struct.pack(">BHQI", 1, 5, 4096, 1) + b"a.img" + b"x")
        stream.settimeout(5)
        assert stream.recv(1) == b""
    assert "gap" in str(pair.errors[0])


@pytest.mark.parametrize(("keeps", "sent"), [(600, 600), (100, 100), (0, 0)])
def test_pages_that_were_given_beforehand_go_as_numbers(pair, tmp_path, keeps, sent):
    """As many as the other side keeps; of zeros, too."""
    (tmp_path / "s").mkdir()
    (tmp_path / "d").mkdir()
    pages = [bytes(4096), *(os.urandom(4096) for _ in range(599))]
    changed = [os.urandom(4096) if number % 3 == 1 else page for number, page in enumerate(pages)]
    image = b"".join([*reversed(changed), b"and a part"])
    (tmp_path / "s" / "pages-1.img").write_bytes(image)
    (tmp_path / "s" / "core-1.img").write_bytes(pages[0])
    (tmp_path / "s" / "empty.img").touch()
    pair.serve = lambda header, stream: images.receive_images(
        stream, tmp_path / "d", keeps_bytes=keeps * 4096
    )
    stream = pair.connect("images")
    sender = images.ImageSender(tmp_path / "s", stream, keeps_bytes=keeps * 4096)
    blocks = [b"".join(pages[at : at + 256]) for at in range(0, 600, 256)]
    assert sender.give(blocks) == sent * 4096
    assert sender.give(blocks) == 0
    given = sender.bytes_sent
    sender.start()
    files = sender.finish()
    assert files == images.sizes(tmp_path / "d")
    assert (tmp_path / "d" / "pages-1.img").read_bytes() == image
    assert (tmp_path / "d" / "core-1.img").read_bytes() == pages[0]
    assert sender.bytes_sent - given < (602 - sent * 2 // 3) * 4096


def record(kind, body, name=b"", offset=0):
    return struct.pack(">BHQI", kind, len(name), offset, len(body)) + name + body


@pytest.mark.parametrize(
    "records",
    [
        record(3, struct.pack(">I", 0), b"pages-1.img"),
        record(2, bytes(4096)) + record(3, struct.pack(">I", 1), b"pages-1.img"),
        record(2, bytes(4095)),
        record(9, b"x", b"pages-1.img"),
    ],
    ids=["none given", "another number", "no whole page", "another kind"],
)
def test_numbers_of_no_page_are_refused(pair, tmp_path, records):
    pair.serve = lambda header, stream: images.receive_images(stream, tmp_path, keeps_bytes=1 << 20)
    with pair.connect() as stream:
        stream.sendall(records)
        stream.settimeout(5)
        assert stream.recv(1) == b""
    assert isinstance(pair.errors[0], ProtocolError)


def test_an_existing_symlink_is_not_written_through(pair, tmp_path):
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.img").symlink_to(tmp_path / "victim")
    pair.serve = lambda header, stream: images.receive_images(stream, tmp_path / "d")
    with pair.connect() as stream:
        stream.sendall(struct.pack(">BHQI", 1, 5, 0, 1) + b"a.img" + b"x")
        stream.settimeout(5)
        assert stream.recv(1) == b""
    assert (tmp_path / "victim").read_text() == "safe"


@pytest.fixture
def trees(tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(os.urandom(100_000))
    (source / "dir with blank").mkdir()
    (source / "dir with blank" / "x").write_text("x")
    os.link(source / "file", source / "hard")
    (source / "link").symlink_to("/etc")
    return source, target


@pytest.mark.needs_rsync
def test_a_tree_arrives_whole_and_again_costs_little(pair, trees):
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target)
    with pair.connect("rsync") as stream:
        first = rootfs.push(source, stream)
    assert (target / "file").read_bytes() == (source / "file").read_bytes()
    assert (target / "file").stat().st_ino == (target / "hard").stat().st_ino
    assert os.readlink(target / "link") == "/etc"
    (source / "dir with blank" / "x").unlink()
    with pair.connect("rsync") as stream:
        second = rootfs.push(source, stream)
    assert not (target / "dir with blank" / "x").exists()
    assert second < 2000 < 100_000 < first


@pytest.mark.needs_rsync
def test_a_change_within_the_same_second_and_size_is_seen(pair, trees):
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target)
    os.utime(source / "file", ns=(10**18, 10**18 + 1))
    with pair.connect("rsync") as stream:
        rootfs.push(source, stream)
    content = os.urandom(100_000)
    (source / "file").write_bytes(content)
    os.utime(source / "file", ns=(10**18, 10**18 + 2))
    with pair.connect("rsync") as stream:
        rootfs.push(source, stream)
    assert (target / "file").read_bytes() == content


@pytest.mark.needs_rsync
def test_named_files_are_sent_whatever_their_times(pair, trees):
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target)
    os.utime(source / "file", ns=(10**18, 10**18))
    with pair.connect("rsync") as stream:
        rootfs.push(source, stream)
    content = os.urandom(100_000)
    (source / "file").write_bytes(content)
    os.utime(source / "file", ns=(10**18, 10**18))
    with pair.connect("rsync") as stream:
        rootfs.push(source, stream, only=["file"])
    assert (target / "file").read_bytes() == content


@pytest.mark.needs_rsync
@pytest.mark.needs_root
def test_a_directory_that_has_become_a_link_leads_nowhere(pair, trees, tmp_path):
    """A container that has mapped a file may put a link to the host's files in its place."""
    source, target = trees
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "x").write_text("not the container's")
    pair.serve = lambda header, stream: rootfs.serve(stream, target)
    (source / "dir with blank").rename(source / "elsewhere")
    (source / "dir with blank").symlink_to(tmp_path / "host")
    names = ["dir with blank/x", "file", "link"]
    assert files_below(source, names) == ["file"]
    with pair.connect("rsync") as stream, pytest.raises(MigrationError, match="symbolic links"):
        rootfs.push(source, stream, only=names[:1])
    assert not (target / "dir with blank" / "x").exists()


def looked_at_last(pair, source, snapshot, mapped=()):
    """A FinalSync from start to finish; the bytes that it sent."""
    streams = [pair.connect("rsync"), pair.connect("rsync")]
    last = FinalSync(source, streams, lambda: list(mapped), snapshot)
    last.start()
    return last.finish(lambda: None)


@pytest.fixture
def equal_trees(pair, trees):
    """Moved once, with the snapshot that was taken before."""
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target)
    time.sleep(0.03)  # the clock of file times ticks
    snapshot = Snapshot.of(source)
    with pair.connect("rsync") as stream:
        rootfs.push(source, stream, frozen=False)
    return source, target, snapshot


@pytest.mark.needs_rsync
def test_where_nothing_changed_no_rsync_looks_again(pair, equal_trees):
    source, _, snapshot = equal_trees
    assert looked_at_last(pair, source, snapshot) == 0
    assert pair.errors == []


@pytest.mark.needs_rsync
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_changed_arrives_at_last(pair, equal_trees, when):
    source, target, snapshot = equal_trees
    last = None
    if when == "meanwhile":
        last = FinalSync(source, [pair.connect("rsync") for _ in "12"], list, snapshot)
    (source / "file").write_text("changed")
    (source / "dir with blank" / "x").unlink()
    sent = last.finish(lambda: None) if last else looked_at_last(pair, source, snapshot)
    assert sent > 0
    assert (target / "hard").read_text() == "changed"
    assert not (target / "dir with blank" / "x").exists()


@pytest.mark.needs_rsync
def test_mapped_files_arrive_whatever_the_snapshot_says(pair, equal_trees):
    source, target, snapshot = equal_trees
    (target / "file").write_text("not this")
    assert looked_at_last(pair, source, snapshot, mapped=["file"]) > 100_000
    assert (target / "file").read_bytes() == (source / "file").read_bytes()


@pytest.mark.needs_rsync
def test_without_a_snapshot_rsync_looks(pair, equal_trees):
    source, _, _ = equal_trees
    assert looked_at_last(pair, source, None) > 0


def test_what_goes_wrong_in_the_last_look_comes_out(pair, trees):
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target / "not-there")
    with pytest.raises(MigrationError):
        looked_at_last(pair, source, None)


@pytest.mark.needs_rsync
def test_a_failing_far_half_is_rsyncs_own_words(pair, trees):
    source, target = trees
    pair.serve = lambda header, stream: rootfs.serve(stream, target / "not-there")
    with pair.connect("rsync") as stream, pytest.raises(MigrationError):
        rootfs.push(source, stream)


@pytest.mark.parametrize(
    "line",
    [
        b"rsync --server --sender -logDtpr . .\n",
        b"rsync --server -logDtpr --daemon . .\n",
        b"rsync --server -logDtpr . /etc\n",
        b"rsync --server -logDtpr --log-file=/etc/x . .\n",
        b"rsync --server -logDtpr --backup-dir=/x . .\n",
        b"sh -c id . .\n",
    ],
)
def test_no_other_rsync_is_run_for_a_source(pair, tmp_path, line):
    pair.serve = lambda header, stream: rootfs.serve(stream, tmp_path)
    with pair.connect("rsync") as stream:
        stream.sendall(line)
        stream.settimeout(5)
        assert stream.recv(1) == b""
    assert isinstance(pair.errors[0], ProtocolError)


def test_contexts_speak_tls_1_3_only(pair):
    context = pair.ours.context(pair.theirs.certificate, server=False)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
