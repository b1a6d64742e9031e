"""The other end of a terminal, for tests: what it shows, what is typed, and who hands it over."""

import fcntl
import os
import select
import socket
import struct
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.socket_path import short_path

NAME_BYTES = 4096


class Screen:
    """All that came out of the pty master *fd* so far; as a context manager it closes it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def shows(self, text: str, timeout_s: float = 10) -> bool:
        """Whether *text* appears; what stands before it is then forgotten."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            if not self._read(deadline - time.monotonic()):
                return False
        self.text = self.text.partition(text)[2]
        return True

    def rest(self, timeout_s: float = 10) -> str:
        """All up to its end."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        return self.text

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.fd], [], [], max(0, timeout_s))[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.text += data.decode()
        return bool(data)


class ConsoleSocket:
    """Who waits for a terminal, as conmon and containerd's shim do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        with short_path(path) as name:
            self._listener.bind(name)
        self._listener.listen()
        self._listener.settimeout(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()
        self.path.unlink()

    def close(self) -> None:
        """Go away, and leave the socket where it is."""
        self._listener.close()

    def receive(self) -> tuple[str, Screen]:
        """The terminal's name, and its other end."""
        connection, _ = self._listener.accept()
        with connection:
            name, fds, _, _ = socket.recv_fds(connection, NAME_BYTES, 2)
            assert connection.recv(1) == b"", "there is one message, and then its end"
        (fd,) = fds
        return name.decode(), Screen(fd)
