"""What runs in the idle container: wakes up every millisecond and remembers its longest gaps.

By the real-time clock: the monotonic one is set back in a restored time namespace, so that the
container's own time goes on where it stopped (time_namespaces(7)). When a file /ask appears, it
answers in /answer. Imports nothing that would need more of the standard library than `encodings`.
"""

import os
import time

KEPT = 5
LOOK_EVERY = 100


def main() -> None:
    gaps: list[tuple[int, int]] = []
    ticks, last = 0, time.time_ns()
    while True:
        time.sleep(0.001)
        now = time.time_ns()
        if len(gaps) < KEPT or now - last > gaps[-1][0]:
            gaps = sorted([*gaps, (now - last, ticks)], reverse=True)[:KEPT]
        ticks, last = ticks + 1, now
        if ticks % LOOK_EVERY == 0 and os.path.exists("/ask"):
            answer(ticks, gaps)
            last = time.time_ns()


def answer(ticks: int, gaps: list[tuple[int, int]]) -> None:
    """Ticks so far, then a line for each of the longest gaps: ns, and the tick before it."""
    with open("/answer.new", "w") as file:
        file.write(f"{ticks}\n" + "".join(f"{gap} {tick}\n" for gap, tick in gaps))
    os.rename("/answer.new", "/answer")
    os.unlink("/ask")


if __name__ == "__main__":
    main()
