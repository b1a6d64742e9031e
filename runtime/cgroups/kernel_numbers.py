"""Numbers in the forms in which the kernel reads them from a control file: pure.

Kernel lib/cmdline.c memparse, lib/kstrtox.c, lib/bitmap.c bitmap_parselist. Every function raises
ValueError for what it does not read.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(r"0[xX](?P<hex>[0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*)")
_BASES = {"hex": 16, "octal": 8, "decimal": 10}
_UNITS = "KMGTPE"
_REGION = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9})/([0-9]{1,9}))?)?")
# More CPUs, or memory nodes, than any kernel is made for (CONFIG_NR_CPUS).
_HIGHEST = 65535


def whole(text: str) -> int:
    """A whole number in C's forms: 10, 0x1f, 017."""
    found = _WHOLE.fullmatch(text.strip())
    if not found or not found.lastgroup:
        raise ValueError(f"{text!r} is no whole number")
    return int(found[found.lastgroup], _BASES[found.lastgroup])


def size_bytes(text: str) -> int:
    """A size, with K, M, G, T, P or E for powers of 1024."""
    number = text.strip()
    power = _UNITS.find(number[-1:].upper()) + 1 if number else 0
    return whole(number[:-1] if power else number) << (10 * power)


def numbers(text: str) -> set[int]:
    """Those of a list as 0-3,7 or 0-15:2/4; it may have empty parts."""
    return {number for part in re.split(r"[,\s]", text) if part for number in _region(part)}


def bits(text: str) -> int:
    """`numbers` with bit N set for number N."""
    return sum(1 << each for each in numbers(text))


def _region(text: str) -> list[int]:
    """first-last:used/group: of every group of so many, the used ones at its beginning."""
    found = _REGION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no number or range of a list as 0-3,7")
    first = int(found[1])
    last, used, group = (int(found[i] or default) for i, default in ((2, first), (3, 1), (4, 1)))
    if not (first <= last <= _HIGHEST and 0 < used <= group):
        raise ValueError(f"{text!r} is no range that there can be")
    return [n for n in range(first, last + 1) if (n - first) % group < used]
