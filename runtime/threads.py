"""Work that the kernel is to see in a thread of its own: what that holds ends with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.0002


def in_a_thread(work: Callable[[], T], *, name: str) -> T:
    """Run *work* in a thread that has ended afterwards; what it raises is raised here."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(exc)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    # Python has done with it, the kernel may not have: only that detaches what it traces
    # (exit_ptrace()), and who attaches again at once would find the process traced by us.
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        time.sleep(_PAUSE_S)
    if failures:
        raise failures[0]
    return results[0]
