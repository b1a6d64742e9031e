"""The formats of the files in which cgroups count: pure, text to numbers.

Kernel documentation: cgroup-v2.rst "Format", cgroup-v1/{blkio-controller,cpuacct,rdma}.rst and
accounting/psi.rst. What a newer kernel may add is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.cgroups.stats import NO_LIMIT, BlockIoEntry, Pressure, PressureLine, RdmaEntry

_RDMA_NO_LIMIT = 2**32 - 1
# Key of io.stat -> what v1 calls it.
_V2_OPERATIONS = {"rbytes": "Read", "wbytes": "Write", "rios": "Read", "wios": "Write"}


def number(text: str) -> int:
    """The one number of a file; `max` and nothing at all are numbers too."""
    text = text.strip()
    return NO_LIMIT if text == "max" else int(text or 0)


def flat_keyed(text: str) -> dict[str, int]:
    """`key value` on each line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def nested_keyed(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`key name=value name=value` on each line."""
    for line in text.splitlines():
        key, *words = line.split()
        yield key, dict(word.split("=", 1) for word in words if "=" in word)


def usage_all(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """cpuacct.usage_all: the time of each CPU in kernel mode, and in user mode."""
    rows = [line.split() for line in text.splitlines()]
    if not rows or rows[0] != ["cpu", "user", "system"]:
        return (), ()
    return tuple(int(row[2]) for row in rows[1:]), tuple(int(row[1]) for row in rows[1:])


def block_io(text: str) -> tuple[BlockIoEntry, ...]:
    """`8:0 Read 4096`, or without the operation; the line of the total is of no device."""
    found = []
    for line in text.splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        if colon and 1 <= len(words) <= 2:
            operation = words[0] if len(words) == 2 else ""
            found.append(BlockIoEntry(int(major), int(minor), operation, int(words[-1])))
    return tuple(found)


def io_stat(text: str) -> tuple[tuple[BlockIoEntry, ...], tuple[BlockIoEntry, ...]]:
    """io.stat of v2: the bytes, and the operations."""
    byte_counts: list[BlockIoEntry] = []
    operations: list[BlockIoEntry] = []
    for device, values in nested_keyed(text):
        major, _, minor = device.partition(":")
        for name, value in values.items():
            if name in _V2_OPERATIONS:
                entry = BlockIoEntry(int(major), int(minor), _V2_OPERATIONS[name], int(value))
                (byte_counts if name.endswith("bytes") else operations).append(entry)
    return tuple(byte_counts), tuple(operations)


def rdma(text: str) -> tuple[RdmaEntry, ...]:
    """rdma.current or rdma.max: `mlx4_0 hca_handle=2 hca_object=max`."""

    def limit(text: str) -> int:
        return _RDMA_NO_LIMIT if text == "max" else int(text)

    return tuple(
        RdmaEntry(device, limit(each.get("hca_handle", "0")), limit(each.get("hca_object", "0")))
        for device, each in nested_keyed(text)
    )


def pressure(text: str) -> Pressure | None:
    """A file of PSI; None for an empty one: the kernel does not count it."""
    lines = {
        key: PressureLine(
            avg10=float(values["avg10"]),
            avg60=float(values["avg60"]),
            avg300=float(values["avg300"]),
            total=int(values["total"]),
        )
        for key, values in nested_keyed(text)
    }
    if not lines:
        return None
    # Of the CPU old kernels have no line "full": never do all wait for it.
    return Pressure(some=lines.get("some", PressureLine()), full=lines.get("full", PressureLine()))
