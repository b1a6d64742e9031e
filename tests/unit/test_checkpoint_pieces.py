"""What checkpoint and restore decide without a kernel: the record, descriptors, mounts, options."""

import json
import os
import struct
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_rpc import BadImages
from criu_rpc.images import check
from criu_rpc.memory_images import PE_PARENT, PE_PRESENT, PagemapEntry, write_pagemap
from criu_rpc.pages import check_pages
from runtime import Network, Networks, RestoreFailed
from runtime.checkpoint import message_queues, records
from runtime.checkpoint.descriptors import Descriptor, Kind, inherited
from runtime.checkpoint.externals import (
    NULL,
    Bind,
    ExternalMount,
    Source,
    mounts_to_restore,
    submounts,
)
from runtime.checkpoint.incremental_chain import Link
from runtime.checkpoint.records import CHAIN_FILE, Dumped, Record, spec_digest
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.checkpoint.tmpfs import Tmpfs
from runtime.network import netlink
from runtime.rootfs import mountinfo
from runtime.rootfs.mountinfo import MountInfo
from runtime.spec.model import Mount, Process, Root, Spec

INSIDE = Descriptor(Kind.INSIDE, "/dev/null")
PIPE = Descriptor(Kind.PIPE, "pipe:[12]", "pipe:[12]")
FILE = Descriptor(Kind.FILE, "/var/log/x", "file[1b:2197c0]", 72)
ETH0 = Network(type="veth", name="eth0", bridge="br0", address="10.1.0.2/24")
RECORD = Record(
    container_id="redis1",
    spec_sha256="ab" * 32,
    descriptors=(INSIDE, PIPE, FILE),
    networks=Networks((ETH0,)),
    submounts=("/data/inner",),
    tmpfs=(Tmpfs("/dev/shm", "shm", ("size=65536k",)),),
    dumped=Dumped(tcp_established=True),
    own_keyring=False,
    id_maps=("0 1000 65536\n", "0 2000 65536\n"),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert records.load(tmp_path, "redis1") == RECORD
    assert json.loads((tmp_path / "descriptors.json").read_text()) == [
        "/dev/null",
        "pipe:[12]",
        "/var/log/x",
    ]
    for name in ("migrator.json", "descriptors.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_record_that_is_expected_is_known_by_its_text(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert records.load(tmp_path, "redis1", known={RECORD.text(): RECORD}) is RECORD
    other = replace(RECORD, submounts=())
    assert records.load(tmp_path, "redis1", known={other.text(): other}) == RECORD


def test_a_record_is_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "migrator.json").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        RECORD.write(tmp_path)
    assert (tmp_path / "target").read_text() == "kept"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(sorted(RECORD.to_json())), JSON)
def test_whatever_a_field_holds_a_record_is_read_or_refused(field: str, value: Any) -> None:
    try:
        Record.from_json(RECORD.to_json() | {field: value})
    except ValueError:
        pass
    else:
        may_be_anything = (
            *("container_id", "spec_sha256", "submounts", "peers", "id_maps", "networks"),
            *("tmpfs", "resources"),
        )
        may_be_none = field == "namespace" and value is None
        may_be_false = field in ("systemd_cgroup", "own_keyring") and value is False
        assert field in may_be_anything or may_be_none or may_be_false or value in (1, 2)


def test_a_record_without_tmpfs_is_one_of_the_first_version() -> None:
    plain = replace(RECORD, tmpfs=())
    assert plain.to_json()["version"] == 1
    first = {name: value for name, value in plain.to_json().items() if name != "tmpfs"}
    assert Record.from_json(first) == plain


@given(JSON)
def test_options_from_another_host_are_read_or_refused(value: Any) -> None:
    sent = RestoreOptions(image_path=Path("/"), record=RECORD).to_wire()
    for field in sent:
        try:
            RestoreOptions.from_wire(sent | {field: value}, images_dir=Path("/i"))
        except RestoreFailed:
            continue


def test_options_come_back_as_they_were_sent() -> None:
    options = RestoreOptions(
        image_path=Path("/here"),
        record=RECORD,
        veths={"eth0": "mv0@br7"},
        bridges={"br0": "br7"},
        tcp_close=True,
        lsm_profile="apparmor:x",
    )
    sent = json.loads(json.dumps(options.to_wire()))
    received = RestoreOptions.from_wire(sent, images_dir=Path("/there"), criu="/c")
    assert received.image_path == Path("/there")
    assert received.criu == "/c"
    assert (received.veths, received.bridges) == (options.veths, options.bridges)
    assert (received.record, received.tcp_close) == (RECORD, True)
    with pytest.raises(RestoreFailed, match=r"container redis1 failed: .*option pid_file"):
        RestoreOptions.from_wire(sent | {"pid_file": "/etc/passwd"}, images_dir=Path("/"))


def test_a_restore_allows_what_the_dump_was_allowed() -> None:
    options = RestoreOptions(image_path=Path("/"), shell_job=True).dumped_with(RECORD)
    assert options.tcp_established
    assert options.shell_job
    assert not options.file_locks
    closed = RestoreOptions(image_path=Path("/"), tcp_close=True).dumped_with(RECORD)
    assert not closed.tcp_established


def test_images_of_another_runtime_have_their_pipes(tmp_path: Path) -> None:
    (tmp_path / "descriptors.json").write_text('["/dev/null", "pipe:[7]", "/x"]')
    found = records.load(tmp_path, "c").descriptors
    assert [each.kind for each in found] == [Kind.INSIDE, Kind.PIPE, Kind.INSIDE]
    (tmp_path / "descriptors.json").write_text('{"0": 1}')
    with pytest.raises(RestoreFailed, match="not a list of three strings"):
        records.load(tmp_path, "c")


def test_a_spec_is_known_by_what_it_says() -> None:
    assert spec_digest({"a": 1, "b": [2]}) == spec_digest({"b": [2], "a": 1})
    assert spec_digest({"a": 1}) != spec_digest({"a": 2})


def test_descriptors_have_crius_names() -> None:
    assert (INSIDE.external, INSIDE.inherit_key) == (None, None)
    assert (PIPE.external, PIPE.inherit_key) == (None, "pipe:[12]")
    assert (FILE.external, FILE.inherit_key) == ("file[1b:2197c0]", "ile[1b:2197c0]")
    assert inherited((PIPE, FILE, FILE), (10, 11, 12)) == {"pipe:[12]": 10, "ile[1b:2197c0]": 11}


@pytest.mark.parametrize("key", ["", "pipe:[x]", "/etc/shadow", "file[1:2]:/etc", "pipe:[1]\n"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    for kind in (Kind.PIPE, Kind.FILE):
        with pytest.raises(ValueError, match="is not CRIU's name"):
            Descriptor(kind, key, key)


def test_mountinfo_is_read_with_its_escapes() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n"
        "37 35 0:5 / /back\\134slash rw - tmpfs tmpfs rw\n"
    )
    ext3 = MountInfo(
        36, "/mnt 2", "/mnt1", os.makedev(98, 0), ("master:1",), "ext3", "/dev/root", ("rw",), 35
    )
    tmpfs = MountInfo(37, "/back\\slash", "/", os.makedev(0, 5), (), "tmpfs", "tmpfs", ("rw",), 35)
    assert mountinfo.parse(text) == [ext3, tmpfs]
    assert mountinfo.parse(text, "tmpfs", "proc") == [tmpfs]


def test_what_is_mounted_below_a_recursive_bind_is_external_too() -> None:
    binds = [Bind("/data", "/srv/data", True), Bind("/one", "/srv/one", False)]
    external = [ExternalMount("/real/data", "/data"), ExternalMount("/one", "/one")]
    table = [
        MountInfo(number, point)
        for number, point in enumerate(["/", "/real/data", "/real/data/in", "/one", "/one/in"])
    ]
    below = submounts(external, binds, table)
    assert below == [ExternalMount("/real/data/in", "/data/in")]
    maps = ("0 5 1\n", "0 6 1\n")
    binds += [Bind("/ids", "/srv/ids", True, maps), Bind("/all", "/srv/all", True, maps, True)]
    spec = Spec("1.2.0", Root("rootfs"), Process(("sh",), "/"))
    names = ["/data/in", "/elsewhere/x", "/ids/in", "/all/in"]
    found = mounts_to_restore(spec, binds, names)
    assert found[:8] == [
        Source("/data", "/srv/data"),
        Source("/one", "/srv/one"),
        Source("/ids", "/srv/ids", maps),
        Source("/all", "/srv/all", maps),
        Source("/data/in", "/srv/data", below="/in"),
        Source("/ids/in", "/srv/ids", below="/in"),
        Source("/all/in", "/srv/all", maps, below="/in"),
        Source(NULL, NULL),
    ]
    assert Source("/dev/zero", "/dev/zero") in found[8:]


def test_message_queues_of_the_host_stay_the_hosts() -> None:
    spec = Spec("1.2.0", Root("rootfs"), Process(("sh",), "/"))
    mine = Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid",))
    bound = Mount("/host", "mqueue", "/dev/mqueue", ("rbind", "ro"))
    assert message_queues.own(spec._replace(mounts=(mine, bound))) == ["/dev/mqueue"]


def test_an_image_directory_is_looked_at_before_criu_gets_it(tmp_path: Path) -> None:
    with pytest.raises(BadImages, match="has no inventory"):
        check(tmp_path)
    for name in ("pstree.img", "files.img"):
        (tmp_path / name).touch()
    (tmp_path / "inventory.img").write_bytes(struct.pack("<I", 0x58313116))
    (tmp_path / "notes").mkdir()
    check(tmp_path)
    (tmp_path / "parent").symlink_to("before")
    with pytest.raises(BadImages, match="parent: No such file"):
        check(tmp_path)
    (tmp_path / "before").mkdir()
    with pytest.raises(BadImages, match=r"parent: has no inventory\.img"):
        check(tmp_path)
    (tmp_path / "before/inventory.img").write_bytes(struct.pack("<I", 0x58313116))
    check(tmp_path)
    (tmp_path / "before/parent").symlink_to("..")
    with pytest.raises(BadImages, match="without an end"):
        check(tmp_path)
    (tmp_path / "before/parent").unlink()
    (tmp_path / "pages-1.img").symlink_to("/etc/shadow")
    with pytest.raises(BadImages, match=r"pages-1\.img: is not a plain file"):
        check(tmp_path)


def pagemap(*entries: bytes) -> bytes:
    framed = (len(entry).to_bytes(4, "little") + entry for entry in entries)
    return struct.pack("<II", 0x54564319, 0x56084025) + b"".join(framed)


def test_memory_that_is_cut_short_is_found(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    head = b"\x08\x01"  # pages_id 1
    # vaddr, nr_pages, flags: 3 pages present, 5 left to a lazy server
    present, lazy = b"\x08\x80\x20\x10\x03\x20\x04", b"\x08\x80\x40\x10\x05\x20\x02"
    (tmp_path / "pagemap-1.img").write_bytes(pagemap(head, present, lazy))
    (tmp_path / "pages-1.img").write_bytes(bytes(3 * page))
    check_pages(tmp_path)
    os.truncate(tmp_path / "pages-1.img", 3 * page - 1)
    with pytest.raises(BadImages, match=rf"cut short: has {3 * page - 1} of {3 * page} bytes"):
        check_pages(tmp_path)
    (tmp_path / "pagemap-1.img").write_bytes(pagemap(head, present)[:-1])
    with pytest.raises(BadImages, match="ends too early"):
        check_pages(tmp_path)


def test_memory_that_a_parent_lacks_is_found(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "parent").symlink_to("below")
    entries = [PagemapEntry(2 * page, 3, PE_PARENT), PagemapEntry(8 * page, 1, PE_PARENT)]
    write_pagemap(tmp_path / "pagemap-1.img", 1, entries)
    (below / "pages-1.img").write_bytes(bytes(9 * page))
    for runs, missing in (
        ([(2, 3), (8, 1)], None),
        ([(1, 2), (3, 6)], None),
        ([(3, 6)], 2),
        ([(2, 2), (8, 1)], 4),
        ([(2, 3)], 8),
    ):
        there = [PagemapEntry(at * page, pages, PE_PRESENT) for at, pages in runs]
        write_pagemap(below / "pagemap-1.img", 1, there)
        refused = pytest.raises(BadImages, match=f"page {(missing or 0) * page:#x} to its parent")
        with refused if missing else nullcontext():
            check_pages(tmp_path)


@given(st.binary(max_size=200))
def test_whatever_netlink_says_attributes_end(data: bytes) -> None:
    assert len(list(netlink.attributes(data))) <= len(data) // 4 + 1


def test_a_kernel_that_does_not_answer_is_told_of_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_TIMEOUT_S", 0.01)
    with netlink.Netlink(netlink.ROUTE) as kernel, pytest.raises(TimeoutError) as caught:
        list(kernel.answers(1))
    assert caught.value.strerror == "the kernel did not answer within 0.01 s"


LINK = {
    "version": 1,
    "container_id": "c1",
    "boot_id": "b",
    "init_start_time": 7,
    "token": "t",
    "parent": "",
}


def test_the_link_of_a_chain_is_read(tmp_path: Path) -> None:
    (tmp_path / CHAIN_FILE).write_text(json.dumps(LINK))
    link = Link.load(tmp_path)
    assert (link.container_id, link.token) == ("c1", "t")
    link.write(tmp_path)
    assert json.loads((tmp_path / CHAIN_FILE).read_text()) == LINK


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "[" * 100_000, " " * 2_000_000),
        *(json.dumps(LINK | other) for other in ({"version": 2}, {"token": {}}, {"more": 1})),
    ],
    ids=["cut", "list", "nest", "long", "version", "type", "more"],
)
def test_a_link_that_cannot_be_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CHAIN_FILE).write_text(text)
    with pytest.raises(BadImages, match=r"chain\.json: cannot be used"):
        Link.load(tmp_path)


def test_a_pipe_for_a_link_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CHAIN_FILE)
    with pytest.raises(BadImages, match="is not a file of a size that it can have"):
        Link.load(tmp_path)
