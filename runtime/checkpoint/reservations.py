"""Address space that is only reserved, as MariaDB reserves 8 TiB: restored whatever its size.

CRIU maps all private memory writable first, and takes that away at the end (criu/mem.c:
premap_private_vma). A writable mapping counts as memory, and one of more than all memory is refused
(Documentation/mm/overcommit-accounting.rst, "obvious overcommits"), unless it is MAP_NORESERVE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from runtime.processes import vpid_of

#: what a host that is restored on may have too little memory for
_VAST_BYTES = 1 << 30
#: of proc_pid_maps(5): private, not writable, of no file
_RESERVED = re.compile(rb"^([0-9a-f]{9,})-([0-9a-f]+) .-.p 0+ 00:00 0 *$", re.MULTILINE)


def keep_from_counting(images_dir: Path, pids: Iterable[int]) -> None:
    """Change the dump of *pids*, which stand still, so that what they have reserved does not count.

    Raises BadImages, OSError.
    """
    for pid in pids:
        if _has_vast(pid):
            from criu_rpc import memory_images  # noqa: PLC0415 - lazy: 30 ms, and seldom needed

            image = images_dir / f"mm-{vpid_of(pid)}.img"
            if image.exists():  # else CRIU has not dumped it: it was started by exec
                memory_images.keep_from_counting(image, _VAST_BYTES)


def _has_vast(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        found = _RESERVED.finditer(Path(f"/proc/{pid}/maps").read_bytes())
        return any(int(each[2], 16) - int(each[1], 16) >= _VAST_BYTES for each in found)
    return False
