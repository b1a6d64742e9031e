"""The limit on a migration's bytes per second: what can be written for it, and that it holds."""

from __future__ import annotations

import threading

import pytest

from migrator.bandwidth import Limiter, TokenBucket, parse
from migrator.errors import UsageProblem


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100M", 100_000_000),
        ("100MB/s", 100_000_000),
        ("64MiB", 64 << 20),
        ("1.5G", 1_500_000_000),
        ("1gbit", 125_000_000),
        ("100 Mbit/s", 12_500_000),
        ("65536", 65536),
        ("2GiB", 2 << 30),
    ],
)
def test_a_bandwidth_is_bytes_or_bits_with_a_unit(text, rate):
    assert parse(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "100X", "-5M", "1e9", "100Mbps", "0", "1K", "M"])
def test_what_is_no_bandwidth_is_named(text):
    with pytest.raises(UsageProblem, match="bandwidth"):
        parse(text)


def test_a_burst_passes_at_once_and_the_rest_waits():
    bucket = TokenBucket(1000, 100, now=0.0)
    assert bucket.take(100, now=0.0) == 0
    assert bucket.take(50, now=0.0) == pytest.approx(0.05)
    assert bucket.take(100, now=0.05) == pytest.approx(0.1)


def test_unused_time_is_worth_one_burst_only():
    bucket = TokenBucket(1000, 100, now=0.0)
    assert bucket.take(150, now=3600.0) == pytest.approx(0.05)


def test_a_clock_that_steps_back_earns_nothing():
    bucket = TokenBucket(1000, 100, now=10.0)
    bucket.take(100, now=10.0)
    assert bucket.take(10, now=5.0) == pytest.approx(0.01)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_an_hour_at_a_limit_moves_what_the_limit_allows():
    clock = Clock()
    limiter = Limiter(1_000_000, clock=lambda: clock.now, sleep=clock.sleep)
    sent = 0
    while clock.now < 3600:
        sent += sum(len(piece) for piece in limiter.pieces(memoryview(bytes(777_777))))
    assert sent / clock.now == pytest.approx(1_000_000, rel=0.01)


def test_pieces_are_the_whole_in_order():
    limiter = Limiter(1_000_000, clock=lambda: 0.0, sleep=lambda seconds: None)
    data = memoryview(bytes(range(256)) * 1000)
    assert b"".join(limiter.pieces(data)) == data


def test_no_limit_is_no_piecework():
    data = memoryview(bytes(50 << 20))
    assert [len(piece) for piece in Limiter(None).pieces(data)] == [50 << 20]


def test_threads_share_one_limit():
    slept: list[float] = []
    shared = Limiter(2_000_000, sleep=slept.append, clock=lambda: 0.0)
    threads = [threading.Thread(target=shared.wait, args=(100_000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(slept) == pytest.approx((800_000 - shared.piece) / 2_000_000)
