"""What the source tells of a container that is hostile."""

from __future__ import annotations

import subprocess

from migrator.source import true_paths
from runtime.checkpoint.descriptors import Descriptor, Kind


def test_only_the_path_at_which_a_file_really_lies_is_told(tmp_path):
    log, other = tmp_path / "log", tmp_path / "other"
    log.touch()
    other.touch()
    inside, pipe = Descriptor(Kind.INSIDE, "/null"), Descriptor(Kind.PIPE, "pipe:[7]", "pipe:[7]")
    with log.open("a") as file:
        process = subprocess.Popen(["sleep", "60"], stderr=file)
    try:
        for claimed, told in ((log, str(log)), (other, ""), (tmp_path / "none", "")):
            error = Descriptor(Kind.FILE, str(claimed), "file[1:2]")
            _, _, found = true_paths([inside, pipe, error], process.pid)
            assert found == Descriptor(Kind.FILE, told, "file[1:2]")
    finally:
        process.kill()
        process.wait()
