"""A limit on the bytes per second of a migration, shared by everything that it sends.

A token bucket: what is not used may be sent at once later, up to a twentieth of a second's worth.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator

from migrator.errors import UsageProblem

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*?)(?:/s)?", re.IGNORECASE)
_UNITS = {"": 1.0, "b": 1.0, "bit": 1 / 8}
for _power, _letter in enumerate("kmg", start=1):
    _UNITS |= {
        _letter: 1000.0**_power,
        f"{_letter}b": 1000.0**_power,
        f"{_letter}ib": 1024.0**_power,
        f"{_letter}bit": 1000.0**_power / 8,
    }
#: below that a migration would outlast its own connection's timeouts
MIN_RATE = 16 << 10
BURST_S = 0.05


def parse(text: str) -> int:
    """Bytes per second of "100M", "64MiB" or "1gbit". UsageProblem names what is wrong."""
    match = _AMOUNT.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageProblem(f"bandwidth {text!r}: give 100M, 64MiB or 1gbit, for instance")
    rate = int(float(match[1]) * unit)
    if rate < MIN_RATE:
        raise UsageProblem(f"bandwidth {text!r}: at least {MIN_RATE >> 10} KiB a second are needed")
    return rate


class TokenBucket:
    """The arithmetic alone: the caller says what time it is, and sleeps."""

    def __init__(self, rate: float, burst: float, *, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = burst, now

    def take(self, size: int, *, now: float) -> float:
        """Take *size* bytes, on credit where needed; seconds until they are paid for."""
        earned = max(0.0, now - self._at) * self.rate
        self._level = min(self.burst, self._level + earned) - size
        self._at = max(self._at, now)
        return max(0.0, -self._level / self.rate)


class Limiter:
    """A limit that any number of threads keep together.

    rate: bytes per second; None for no limit.
    """

    def __init__(
        self,
        rate: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        #: what is best sent at once, so that a limited link is used evenly
        self.piece = 1 << 30 if rate is None else max(16 << 10, int(rate * BURST_S))
        self._bucket = rate and TokenBucket(rate, self.piece, now=clock())

    def wait(self, size: int) -> None:
        """Return when *size* bytes may be sent."""
        if not self._bucket:
            return
        with self._lock:
            seconds = self._bucket.take(size, now=self._clock())
        if seconds > 0:
            self._sleep(seconds)

    def pieces(self, data: memoryview) -> Iterator[memoryview]:
        """Parts of *data*, each when it may be sent."""
        for start in range(0, len(data), self.piece):
            part = data[start : start + self.piece]
            self.wait(len(part))
            yield part
