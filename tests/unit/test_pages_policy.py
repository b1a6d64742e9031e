"""What is sent whole, what is not, and when compressing pays."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.pages.batches import Contents, Group, pack_prefixes, prefixes, split
from migrator.pages.compression import DECIDE_AT, Compressor, Flow, Sample, choose
from migrator.pages.records import Kind
from runtime.memory.compression import available
from runtime.memory.contents import PAGE_SIZE as PAGE
from runtime.memory.contents import ZERO_HASH

MIB = 1 << 20
#: 10000 MiB sampled: lz4 at 800 MiB/s to a half, zstd at 400 MiB/s to a third
TYPICAL = {
    "lz4": Sample(10000, 5000, 10000 / (800 * MIB)),
    "zstd": Sample(10000, 3300, 1e4 / (400 * MIB)),
}
NOISE = {
    "lz4": Sample(10000, 10000, 1e4 / (3000 * MIB)),
    "zstd": Sample(10000, 10000, 1e4 / (900 * MIB)),
}
WORK = 1 / (700 * MIB)


@pytest.mark.parametrize(
    ("link_mib", "samples", "chosen"),
    [
        (12, TYPICAL, "zstd"),  # 100 Mbit/s: the smallest
        (118, TYPICAL, "lz4"),  # 1 Gbit/s: zstd is hardly faster, and costs twice the CPU
        (1180, TYPICAL, "none"),  # 10 Gbit/s: the CPU is the limit
        (12, NOISE, "none"),
        (118, NOISE, "none"),
        (118, {}, "none"),
        (118, {"zstd": TYPICAL["zstd"]}, "zstd"),
        # a gain of less than a tenth is none
        (250, {"lz4": Sample(100, 95, 100 / (3000 * MIB))}, "none"),
    ],
)
def test_the_way_that_takes_the_least_time_is_chosen(link_mib, samples, chosen):
    assert choose(samples, link=link_mib * MIB, work=WORK) == chosen


sample = st.builds(Sample, st.just(1000), st.integers(1, 1000), st.floats(1e-8, 1e-2))


@given(
    st.dictionaries(st.sampled_from(["lz4", "zstd"]), sample),
    st.floats(1e4, 1e11),
    st.floats(1e-10, 1e-7),
)
def test_a_choice_is_never_much_slower_than_none(samples, link, work):
    chosen = choose(samples, link=link, work=work)
    if chosen != "none":
        packed = samples[chosen]
        assert max(work + packed.cost, packed.ratio / link) < max(work, 1 / link)


def test_the_link_is_read_off_the_part_that_waits_for_it():
    slow = Flow(bytes_sent=100 * MIB, read_s=0.1, hash_s=0.1, send_s=0.8)
    assert slow.link == pytest.approx(100 * MIB)
    fast = Flow(bytes_sent=100 * MIB, read_s=0.1, hash_s=0.2, send_s=0.1)
    assert fast.link == pytest.approx(1000 * MIB)


def test_a_slow_destination_is_no_slow_link():
    flow = Flow(bytes_sent=100 * MIB, hash_s=0.2, send_s=0.8, full_s=0.7)
    assert choose(TYPICAL, link=flow.link, work=WORK) == "none"


class Stream:
    """A sender's account over a link of so many bytes a second, with nothing behind it."""

    def __init__(self, link: float, wish: str = "auto") -> None:
        self.flow = Flow()
        self.compressor = Compressor(wish, available(), self.flow)
        self.link = link
        self.used: list[str] = []

    def send(self, data: bytes, mib: int) -> None:
        view = memoryview(bytearray(data))
        for _ in range(mib * MIB // len(data)):
            _, packed = self.compressor.pack(view)
            self.flow.page_bytes += len(data)
            self.flow.data_pages += len(data) // PAGE
            self.flow.bytes_sent += len(packed)
            self.flow.hash_s += len(data) * WORK
            self.flow.send_s += len(packed) / self.link
            if self.used[-1:] != [self.compressor.current]:
                self.used.append(self.compressor.current)


@pytest.fixture(autouse=True)
def _codecs():
    if len(available()) < 2:
        pytest.skip("liblz4.so.1 and libzstd.so.1 are not both here")


TEXT = b"".join(b"%d: some words that come again and again\n" % number for number in range(30000))
TEXT = TEXT[:MIB]


def test_auto_compresses_on_a_slow_link():
    stream = Stream(12 * MIB)
    stream.send(TEXT, 40)
    # which of the codecs: their speed is measured, and this machine may be busy
    assert stream.used in (["none", "zstd"], ["none", "lz4"])
    assert stream.flow.bytes_sent < 30 * MIB


def test_auto_leaves_noise_alone():
    stream = Stream(12 * MIB)
    stream.send(os.urandom(MIB), 200)
    assert stream.used == ["none"]


def test_auto_changes_its_mind_twice_at_most():
    stream = Stream(12 * MIB)
    for data, mib in ((TEXT, 100), (os.urandom(MIB), 900), (TEXT, 1100)):
        stream.send(data, mib)
    assert stream.used[:2] in (["none", "zstd"], ["none", "lz4"])
    assert len(stream.used) <= 3
    assert stream.flow.page_bytes > DECIDE_AT[-1]


def test_nothing_is_decided_before_something_was_sent():
    stream = Stream(12 * MIB)
    stream.flow.page_bytes = 2 * DECIDE_AT[-1]  # all of it known at the destination
    stream.send(TEXT, 1)
    assert stream.used == ["none"]


def test_what_grows_is_sent_as_it_is_and_soon_not_even_tried():
    stream = Stream(12 * MIB, wish="zstd")
    noise, small = memoryview(bytearray(os.urandom(MIB))), memoryview(bytearray(TEXT))
    assert [stream.compressor.pack(noise)[0] for _ in range(50)] == [0] * 50
    codecs = [stream.compressor.pack(small)[0] for _ in range(20)]
    assert codecs[-1] != 0
    assert sorted(codecs) == codecs


def test_a_codec_that_one_host_lacks_is_not_used():
    compressor = Compressor("zstd", {}, Flow())
    data = memoryview(bytearray(TEXT))
    assert compressor.pack(data) == (0, data)


def hashes(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(16, "little") if number else ZERO_HASH for number in numbers)


def test_pages_are_grouped_by_the_way_they_go():
    contents = Contents(ZERO_HASH)
    assert contents.groups(hashes(1, 2, 3)) == [(Kind.DATA, 3)]
    assert contents.groups(hashes(0, 0, 4, 5, 5, 1, 4, 0)) == [
        (Kind.ZERO, 2),
        (Kind.DATA, 2),
        (Kind.SAME, 3),
        (Kind.ZERO, 1),
    ]
    contents.learn(prefixes(pack_and_back(hashes(9))))
    assert contents.groups(hashes(9, 1)) == [(Kind.SAME, 2)]


def pack_and_back(known: bytes) -> bytes:
    """Hashes as they come over the wire, their other half lost."""
    return b"".join(
        bytes(memoryview(pack_prefixes(known))[at : at + 8]) + bytes(8)
        for at in range(0, len(known) // 2, 8)
    )


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=9),
    st.randoms(use_true_random=False),
)
def test_runs_are_cut_anywhere_and_lose_no_page(lengths, numbers):
    runs, at = [], 0
    for gap, pages in lengths:
        runs.append(((at + gap) * PAGE, (at + gap + pages) * PAGE))
        at += gap + pages
    left, sizes = sum(pages for _, pages in lengths), []
    while left:
        sizes.append(numbers.randint(1, left))
        left -= sizes[-1]
    pieces = list(split(runs, [Group(Kind.DATA, size) for size in sizes]))
    assert [sum(end - start for start, end in piece) // PAGE for piece in pieces] == sizes

    def addresses(some):
        return [address for start, end in some for address in range(start, end, PAGE)]

    assert addresses(run for piece in pieces for run in piece) == addresses(runs)
