"""A criu that plays a script: run as a program, it speaks on the socket as `criu swrk FD` does.

The script is a JSON list of steps, given in $FAKE_CRIU_SCRIPT; what was asked of it is appended,
one JSON object a line, to $FAKE_CRIU_HEARD. Steps: {"expect": TYPE}, {"reply": {..}} (fields of
criu_resp), {"notify": NAME, "pid": N, "fds": N}, {"raw": HEX}, {"zeros": N}, {"stderr": TEXT},
{"log": TEXT} (into the image directory's log), {"touch": NAME}, {"await": NAME}, {"close": true},
{"fork_and_die": true}, {"signal": N}, {"exit": N}, {"linger": true}.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from criu_rpc import proto

rpc = proto.rpc()


class FakeCriu:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.opts: Any = None

    def play(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            name = next(iter(step))
            action: Callable[[dict[str, Any]], None] = getattr(self, f"do_{name}")
            action(step)

    def hear(self) -> Any:
        data = self.sock.recv(1 << 20)
        if not data:
            sys.exit(1)
        request = rpc.criu_req.FromString(data)
        with open(os.environ["FAKE_CRIU_HEARD"], "a", encoding="utf-8") as heard:
            print(json.dumps(json_format.MessageToDict(request, True, True)), file=heard)
        return request

    def do_expect(self, step: dict[str, Any]) -> None:
        request = self.hear()
        assert rpc.criu_req_type.Name(request.type) == step["expect"], request
        self.opts = request.opts

    def do_reply(self, step: dict[str, Any]) -> None:
        self.sock.send(json_format.ParseDict(step["reply"], rpc.criu_resp()).SerializeToString())

    def do_notify(self, step: dict[str, Any]) -> None:
        reply = rpc.criu_resp(type=rpc.NOTIFY, success=True)
        reply.notify.script = step["notify"]
        if "pid" in step:
            reply.notify.pid = step["pid"]
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(step.get("fds", 0))]
        socket.send_fds(self.sock, [reply.SerializeToString()], fds)
        answer = self.hear()
        assert answer.type == rpc.NOTIFY, answer

    def do_raw(self, step: dict[str, Any]) -> None:
        self.sock.send(bytes.fromhex(step["raw"]))

    def do_zeros(self, step: dict[str, Any]) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * step["zeros"])
        self.sock.send(bytes(step["zeros"]))

    def do_stderr(self, step: dict[str, Any]) -> None:
        sys.stderr.write(step["stderr"])
        sys.stderr.flush()

    def do_log(self, step: dict[str, Any]) -> None:
        directory = f"/proc/{os.getppid()}/fd/{self.opts.images_dir_fd}"
        with open(f"{directory}/{self.opts.log_file}", "w", encoding="utf-8") as log:
            log.write(step["log"])

    def do_touch(self, step: dict[str, Any]) -> None:
        with open(step["touch"], "w", encoding="utf-8"):
            pass

    def do_await(self, step: dict[str, Any]) -> None:
        while not os.path.exists(step["await"]):
            time.sleep(0.01)

    def do_close(self, step: dict[str, Any]) -> None:
        self.sock.close()

    def do_fork_and_die(self, step: dict[str, Any]) -> None:
        """Die while a child keeps the socket open, as a restore's half-made tasks do."""
        if os.fork() == 0:
            os.closerange(1, 3)
            signal.alarm(20)
            signal.pause()
        os._exit(3)

    def do_signal(self, step: dict[str, Any]) -> None:
        os.kill(os.getpid(), step["signal"])

    def do_exit(self, step: dict[str, Any]) -> None:
        sys.exit(step["exit"])

    def do_linger(self, step: dict[str, Any]) -> None:
        """Stay until killed, deaf to everything."""
        while True:
            signal.pause()


def main() -> None:
    assert sys.argv[1] == "swrk", sys.argv
    sock = socket.socket(fileno=int(sys.argv[2]))
    FakeCriu(sock).play(json.loads(os.environ["FAKE_CRIU_SCRIPT"]))


main()
