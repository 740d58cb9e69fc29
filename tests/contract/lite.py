"""A real Milvus Lite process for the contract tests."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.index.milvus import lite_command


class Lite:
    """A Milvus Lite process that can be killed and started again on the same data and port."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(lite_command(self.directory, self.port), stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "listens" in line, line

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


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
