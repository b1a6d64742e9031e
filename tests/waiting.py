"""Waiting for what happens elsewhere, and only as long as it takes."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], timeout_s: float = 30) -> bool:
    """Wait until *condition* is met; False when it is not after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
