"""A real Milvus Lite process for the contract tests."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.index.milvus import lite_command


class Lite:
    """A Milvus Lite process that can be killed and started again on the same data and port."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory.with_name(f"{directory.name}.log")
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens. `said` has what it writes from now on."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(lite_command(self.directory, self.port), stderr=log)
        while "listens" not in self.said():
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        """What it wrote since its start."""
        return self.log.read_text(errors="replace")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        return self.process.wait(60)


@contextmanager
def running(directory: Path) -> Iterator[Lite]:
    """A server on a free port until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Lite(directory, port)
    try:
        yield server
    finally:
        server.kill()
