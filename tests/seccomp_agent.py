"""Who answers for seccomp filters that ask somebody outside."""

import json
import os
import select
import socket
import struct
import threading
from contextlib import ExitStack
from fcntl import ioctl
from pathlib import Path
from typing import Any

from runtime.seccomp.library import number_of

# linux/seccomp.h
RECEIVE, SEND = 0xC050_2100, 0xC018_2101
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
RESPONSE = struct.Struct("=QqiI")
CONTINUE = 1


class Agent:
    """Answers for every filter it gets: *answers* has the errno of a call, the others go on."""

    def __init__(self, path: Path, answers: dict[str, int]) -> None:
        self.path = path
        self.answers = {number_of(name): error for name, error in answers.items()}
        self.states: list[dict[str, Any]] = []
        self.asked: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Agent":
        server = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(self.path))
        self._stack.callback(self.path.unlink)
        server.listen()
        ends = os.pipe()
        for fd in ends:
            self._stack.callback(os.close, fd)
        thread = threading.Thread(target=self._serve, args=(server, ends[0]))
        self._stack.callback(thread.join)
        self._stack.callback(os.write, ends[1], b"x")
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, server: socket.socket, end: int) -> None:
        listeners: set[int] = set()
        poll = select.poll()
        poll.register(server, select.POLLIN)
        poll.register(end, select.POLLIN)
        while True:
            for fd, events in poll.poll():
                if fd == end:
                    for each in listeners:
                        os.close(each)
                    return
                if fd == server.fileno():
                    if (listener := self._accept(server)) is not None:
                        listeners.add(listener)
                        poll.register(listener, select.POLLIN)
                elif events & select.POLLIN:
                    self._answer(fd)
                else:  # nobody is under the filter any more
                    poll.unregister(fd)

    def _accept(self, server: socket.socket) -> int | None:
        connection, _ = server.accept()
        with connection:
            text, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
            if not text:  # the process could not come under its filter
                return None
            while more := connection.recv(1 << 16):  # until it is closed, as has to be
                text += more
        self.states.append(json.loads(text))
        return fds[0]

    def _answer(self, listener: int) -> None:
        asked = bytearray(NOTIFICATION.size)
        try:
            ioctl(listener, RECEIVE, asked)
            identity, _, _, call, *_ = NOTIFICATION.unpack(asked)
            self.asked.append(call)
            error = self.answers.get(call, 0)
            ioctl(listener, SEND, RESPONSE.pack(identity, 0, -error, 0 if error else CONTINUE))
        except FileNotFoundError:
            pass  # it has been killed
