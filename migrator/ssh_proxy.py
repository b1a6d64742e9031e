"""The program that a connection goes through: ssh_config(5)'s ProxyCommand."""

from __future__ import annotations

import os
import socket
import subprocess


class Proxy:
    """The command, and our end of a socket that is its standard input and output."""

    def __init__(self, command: str) -> None:
        """Start it in the shell, as ssh(1) does. Raises OSError.

        In a session of its own: Ctrl-C is for us, who may have to speak through it until all is
        undone, and it can ask nobody for a password.
        """
        self._said = os.memfd_create("proxy-stderr")
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._said,
                    start_new_session=True,
                )
        except OSError:
            self.socket.close()
            os.close(self._said)
            raise

    def complaint(self) -> str:
        """The last line that it wrote to its standard error, "" if it wrote none."""
        lines = os.pread(self._said, 1 << 16, 0).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """End it."""
        self.socket.close()
        self._process.kill()
        self._process.wait()
        os.close(self._said)
