"""Whether pages are compressed, and by what: measured on the pages and the link at hand.

`auto` starts without, compresses parts of what it sends anyway, and decides at three fixed points
of the stream; it changes its mind twice at most. What does not get smaller is never compressed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from criu_rpc.logger import Logger
from migrator.pages.records import CODECS, MAX_PAYLOAD, PAGE
from runtime.memory.compression import Codec

logger = Logger(__name__)

NONE = "none"
#: bytes of pages with content after which `auto` decides; more than once, since memory is not alike
#: from end to end
DECIDE_AT = (24 << 20, 128 << 20, 1 << 30)
#: the first bytes fill the sockets' own buffers, and tell nothing of the link
BUFFERED = 8 << 20
SAMPLE_WINDOW = 8 << 20
SAMPLE = 64 << 10
MAX_CHANGES = 2
#: what costs more CPU must be faster by so much
GAIN = 0.9
#: after one that did not get smaller, up to so many groups are not even tried
MAX_PATIENCE = 16


@dataclass(slots=True)
class Flow:
    """What a sender has done so far. Seconds are its own, by part; bytes count headers too."""

    bytes_sent: int = 0
    page_bytes: int = 0
    data_pages: int = 0
    zero_pages: int = 0
    same_pages: int = 0
    gone_pages: int = 0
    read_s: float = 0.0
    hash_s: float = 0.0
    compress_s: float = 0.0
    send_s: float = 0.0
    #: that long the destination's window was full: it, and not the link, was the limit
    full_s: float = 0.0

    def since(self, before: Flow) -> Flow:
        return Flow(*(getattr(self, f) - getattr(before, f) for f in self.__slots__))

    def copy(self) -> Flow:
        return self.since(Flow())

    @property
    def link(self) -> float:
        """Bytes per second of the link; a lower bound where a CPU was slower than the link.

        Infinite where the destination's was: fewer bytes would not be put into its store faster.
        """
        if self.full_s > self.send_s / 2:
            return math.inf
        busy = self.read_s + self.hash_s + self.compress_s + self.send_s
        seconds = busy if self.send_s > busy / 2 else self.send_s
        return self.bytes_sent / max(seconds, 1e-6)

    @property
    def work(self) -> float:
        """Seconds of CPU for each byte of pages, whether they are compressed or not."""
        return (self.read_s + self.hash_s) / max(self.page_bytes, 1)


@dataclass(slots=True)
class Sample:
    """What a codec made of some pages."""

    raw: int = 0
    packed: int = 0
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        return self.packed / max(self.raw, 1)

    @property
    def cost(self) -> float:
        return self.seconds / max(self.raw, 1)


def choose(samples: Mapping[str, Sample], *, link: float, work: float) -> str:
    """The codec, or "none", by which a byte of pages takes the least time.

    link: bytes per second; work: seconds that each byte costs besides. Sending and working overlap,
    so that the slower of both counts. Of those that are about as fast, the one that costs the least
    CPU: the container's own host pays for it.
    """
    times = {NONE: max(work, 1 / link)}
    for name in sorted(samples, key=lambda name: samples[name].cost):
        times[name] = max(work + samples[name].cost, samples[name].ratio / link)
    best = min(times.values())
    return next(name for name, time_ in times.items() if time_ * GAIN <= best)


@dataclass
class Compressor:
    """Packs groups of pages; `flow` is the sender's account, which `auto` judges by."""

    wish: str
    codecs: Mapping[str, Codec]
    flow: Flow
    current: str = NONE
    _before: Flow | None = None
    _samples: dict[str, Sample] = field(default_factory=dict)
    _decisions: int = 0
    _changes: int = 0
    _failures: int = 0
    _skip: int = 0

    def __post_init__(self) -> None:
        self._room = memoryview(bytearray(MAX_PAYLOAD))
        if self.wish in self.codecs:
            self.current = self.wish
        elif self.wish not in (NONE, "auto"):
            logger.warning("%s is not installed on both hosts: pages are not compressed", self.wish)

    def pack(self, data: memoryview) -> tuple[int, memoryview]:
        """The number of the codec that was used, 0 for none, and what is to be sent.

        It is valid until the next call.
        """
        if self.wish == "auto" and self._decisions < len(DECIDE_AT):
            self._consider(data)
        if self.current == NONE or self._skip:
            self._skip = max(0, self._skip - 1)
            return 0, data
        size = self.codecs[self.current].compress(data, self._room[: _smaller(len(data))])
        self._failures = 0 if size else min(self._failures + 1, MAX_PATIENCE)
        self._skip = self._failures
        if not size:
            return 0, data
        return CODECS.index(self.current), self._room[:size]

    def _consider(self, data: memoryview) -> None:
        at = DECIDE_AT[self._decisions]
        done = self.flow.data_pages * PAGE
        if self._before is None and done >= BUFFERED:
            self._before = self.flow.copy()
        if done < at - SAMPLE_WINDOW or self._before is None or self._changes == MAX_CHANGES:
            return
        self._sample(data[:SAMPLE])
        window = self.flow.since(self._before)
        if done >= at and window.bytes_sent:
            self._decide(window)
            self._before = self.flow.copy()

    def _sample(self, data: memoryview) -> None:
        for name, codec in self.codecs.items():
            sample = self._samples.setdefault(name, Sample())
            start = time.perf_counter()
            size = codec.compress(data, self._room[: _smaller(len(data))])
            sample.seconds += time.perf_counter() - start
            sample.raw += len(data)
            sample.packed += size or len(data)

    def _decide(self, window: Flow) -> None:
        chosen = choose(self._samples, link=window.link, work=window.work)
        logger.info(
            "%s, %s: %s",
            _speed(window),
            _described(self._samples.items()),
            f"compressed by {chosen}" if chosen != NONE else "not compressed",
        )
        self._changes += chosen != self.current
        self._decisions += 1
        self.current, self._samples = chosen, {}


def _smaller(size: int) -> int:
    """The room for the packed form: less than that gained is not worth unpacking."""
    return size - size // 16


def _speed(window: Flow) -> str:
    if math.isinf(window.link):
        return "the destination's CPU is the limit"
    return f"the link carries {window.link / 2**20:.0f} MiB/s"


def _described(samples: Iterable[tuple[str, Sample]]) -> str:
    return (
        ", ".join(
            f"{name} to {sample.ratio:.0%} at {1 / max(sample.cost, 1e-12) / 2**20:.0f} MiB/s"
            for name, sample in samples
        )
        or "no codec on both hosts"
    )
