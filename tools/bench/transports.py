"""Measures the ways that bulk data could take between two hosts of the lab.

    .venv/bin/python tools/bench/transports.py [--mib 512] [--runs 3] [--bandwidth 1gbit]

Prints a table of medians: MiB a second, and the source's seconds of CPU for each GiB. Both hosts
are this machine, so that they share its CPUs, as they would not in life.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from migrator import dataplane
from migrator.lab import lab
from migrator.pages.receiver import Receiver
from migrator.pages.sender import Sender
from migrator.plan import Destination
from migrator.tls import Credentials
from migrator.transport import SshConnection
from runtime.memory.store import PageStore

CHUNK = 1 << 20
BASE = 0x7F00_0000_0000
SWALLOW = "cat >/dev/null"


class Sink:
    """On the destination: a plain and a TLS port; both read to the end of the data and answer."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.size = job["size"]
        credentials = Credentials(job["key"].encode(), job["certificate"])
        context = credentials.context(job["peer"], server=True)
        self.tls = dataplane.Listener(job["address"], context, self.serve)
        self.plain = socket.create_server((job["address"], 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            with self.plain.accept()[0] as stream:
                self.swallow(stream)

    def serve(self, header: dict[str, Any], stream: Any) -> None:
        if header["stream"] == "bulk":
            self.swallow(stream)
            return
        with (
            tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
            PageStore.create(Path(directory), 2 * self.size) as store,
        ):
            Receiver(stream, store).serve()

    def swallow(self, stream: socket.socket) -> None:
        room, left = memoryview(bytearray(CHUNK)), self.size
        while left and (got := stream.recv_into(room)):
            left -= got
        stream.sendall(b"!")


class Source:
    """On the source: sends the same data each way; each returns when all of it has arrived."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.data = memoryview(bytearray(os.urandom(job["size"])))
        credentials = Credentials(job["key"].encode(), job["certificate"])
        self.context = credentials.context(job["peer"], server=False)
        destination = Destination.parse("root@" + job["host"], ssh_config=Path(job["ssh_config"]))
        self.ssh = SshConnection.open(destination)
        self.ways: dict[str, Callable[[], float]] = {
            "plain TCP": self.tcp,
            "TLS": self.direct,
            "TLS, as pages": self.pages,
            "OpenSSH's ssh": self.openssh,
            "paramiko's channel": self.channel,
            "TLS in paramiko's forwarding": self.forwarded,
        }

    def tcp(self) -> float:
        address = (self.job["address"], self.job["plain"])
        with socket.create_connection(address) as stream:
            return self.bulk(stream)

    def direct(self) -> float:
        with self.connect("bulk", self.job["address"]) as stream:
            return self.bulk(stream)

    def forwarded(self) -> float:
        with self.connect("bulk", "") as stream:
            stream.settimeout(None)
            return self.bulk(stream)

    def pages(self) -> float:
        with closing(self.connect("pages", self.job["address"])) as stream:
            sender = Sender(stream, compression="none")
            start = time.monotonic()
            sender.send_run(1, BASE, BASE + len(self.data), self.read)
            sender.mark()
            seconds = time.monotonic() - start
            sender.close()
        return seconds

    def openssh(self) -> float:
        command = ["ssh", "-F", self.job["ssh_config"], self.job["host"], f"echo; {SWALLOW}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
            assert ssh.stdin is not None
            assert ssh.stdout is not None
            ssh.stdout.readline()
            start = time.monotonic()
            for at in range(0, len(self.data), CHUNK):
                ssh.stdin.write(self.data[at : at + CHUNK])
            ssh.stdin.close()
            ssh.wait()
        return time.monotonic() - start

    def channel(self) -> float:
        transport = self.ssh._client.get_transport()
        assert transport is not None
        with closing(transport.open_session()) as channel:
            channel.exec_command(SWALLOW)
            start = time.monotonic()
            for at in range(0, len(self.data), CHUNK):
                channel.sendall(self.data[at : at + CHUNK])
            channel.shutdown_write()
            channel.recv_exit_status()
        return time.monotonic() - start

    def connect(self, kind: str, peer_address: str) -> Any:
        return dataplane.connect(
            self.job["address"],
            self.job["tls"],
            self.context,
            {"stream": kind},
            self.ssh.forward,
            peer_address,
        )

    def bulk(self, stream: socket.socket) -> float:
        start = time.monotonic()
        for at in range(0, len(self.data), CHUNK):
            stream.sendall(self.data[at : at + CHUNK])
        if stream.recv(1) != b"!":
            raise OSError("the destination did not take it all")
        return time.monotonic() - start

    def read(self, view: memoryview, address: int) -> int:
        view[:] = self.data[address - BASE : address - BASE + len(view)]
        return len(view)


def run_sink() -> None:
    """Serve until standard input ends."""
    job = json.loads(sys.stdin.readline())
    sink = Sink(job)
    ports = {"tls": sink.tls.port, "plain": sink.plain.getsockname()[1]}
    os.write(1, json.dumps(ports).encode() + b"\n")
    sys.stdin.read()


def run_source() -> None:
    """Each way in turn, so many times: a line of JSON for each."""
    job = json.loads(sys.stdin.readline())
    source = Source(job)
    for run in range(job["runs"] + 1):
        for name, way in source.ways.items():
            before = cpu_s()
            seconds = way()
            figures = {"way": name, "seconds": seconds, "cpu_s": cpu_s() - before}
            if run:  # the first warms up
                os.write(1, json.dumps(figures).encode() + b"\n")


def cpu_s() -> float:
    return sum(os.times()[:4])


def measure(size: int, runs: int, bandwidth: str) -> list[dict[str, Any]]:
    """Bring up a lab, run both ends in it, and take it down."""
    ours, theirs = Credentials.make(), Credentials.make()
    with lab.up("transports", bandwidth=bandwidth, owned=True) as up:
        source, sink = up.hosts[:2]
        job = {
            "size": size,
            "runs": runs,
            "host": sink.name,
            "address": sink.address,
            "ssh_config": str(up.ssh_config),
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with sink.popen(sys.executable, __file__, "sink", **pipes) as serving:
            print_job(serving, job | job_of(theirs, ours))
            job |= json.loads(serving.stdout.readline())
            with source.popen(sys.executable, __file__, "source", **pipes) as sending:
                print_job(sending, job | job_of(ours, theirs))
                return [json.loads(line) for line in sending.stdout]


def job_of(mine: Credentials, other: Credentials) -> dict[str, str]:
    return {
        "key": mine.key.decode(),
        "certificate": mine.certificate,
        "peer": other.certificate,
    }


def print_job(process: subprocess.Popen[str], job: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()


def table(figures: list[dict[str, Any]], title: str, size: int) -> Table:
    """Medians of each way."""
    drawn = Table(title=title, box=box.SIMPLE)
    drawn.add_column("way")
    for heading in ("MiB/s", "source's CPU, s/GiB", "runs"):
        drawn.add_column(heading, justify="right")
    for way in dict.fromkeys(figure["way"] for figure in figures):
        mine = [figure for figure in figures if figure["way"] == way]
        speed = (size >> 20) / statistics.median(figure["seconds"] for figure in mine)
        cpu = statistics.median(figure["cpu_s"] for figure in mine) * (1 << 30) / size
        drawn.add_row(way, f"{speed:.0f}", f"{cpu:.2f}", str(len(mine)))
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(prog="transports.py", description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512, help="how much is sent each time")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bandwidth", default="off", metavar="RATE", help="of the link")
    parser.add_argument("part", nargs="?", choices=["source", "sink"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_source() if options.part == "source" else run_sink()
        return 0
    size = options.mib << 20
    figures = measure(size, options.runs, options.bandwidth)
    Console(highlight=False, width=100).print(
        table(figures, f"{options.mib} MiB of noise, link: {options.bandwidth}", size)
    )
    return 0 if len(figures) == 6 * options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
