"""A container whose memory can be watched from outside, and its ways out and back in."""

import time
from pathlib import Path
from typing import Any

from runtime import Container
from runtime.checkpoint.dump import checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.restore import Restore
from runtime.checkpoint.restore_options import RestoreOptions
from tests.containers import Box
from tests.waiting import eventually

# A rename is seen whole or not at all.
COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/new; mv /tmp/new /tmp/count; sleep 0.01; done"


class Migratory:
    """One container of a box that counts in its memory, wherever it goes."""

    def __init__(self, box: Box, images: Path) -> None:
        self.box, self.images = box, images
        self.container: Container

    def start(self, script: str = COUNT, **options: Any) -> "Migratory":
        self.box.program("sh", "-c", script)
        self.container = self.box.start(**options)
        return self

    def count(self) -> int:
        try:
            return int((self.box.bundle.rootfs / "tmp/count").read_text())
        except FileNotFoundError:
            return 0

    def counts(self) -> bool:
        """Whether it goes on counting."""
        before = self.count()
        return eventually(lambda: self.count() > before)

    def stands_still(self) -> bool:
        before = self.count()
        time.sleep(0.2)
        return self.count() == before

    def checkpoint(self, **options: Any) -> None:
        kept = {"destroy", "on_notify", "criu"}
        arguments = {name: options.pop(name) for name in kept & options.keys()}
        request = CheckpointOptions(image_path=self.images, **options)
        checkpoint(self.container, request, **arguments)

    def restoring(self, name: str = "", **options: Any) -> Restore:
        container_id = self.box.id + name
        self.box.made.append(container_id)
        request = RestoreOptions(**{"image_path": self.images, **options})
        return Restore(self.box.root, container_id, self.box.bundle.path, request)

    def restore(self, name: str = "", *, on_notify: Any = None, **options: Any) -> Container:
        restore = self.restoring(name, **options)
        restore.prepare()
        self.container = restore.run(on_notify)
        return self.container
