"""A whole Deepwell on a data directory of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.upstream import MODEL, Upstream

BIN = Path(sys.executable).with_name("deepwell")
ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A started platform and its command line."""

    data_dir: Path
    process: subprocess.Popen[str]
    url: str
    key: str

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """Run `deepwell … --json --data-dir …`; the JSON it prints. Fails on another exit code."""
        done = cli(*arguments, "--json", "--data-dir", str(self.data_dir))
        assert done.returncode == code, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def pid(self, module: str) -> int:
        """Process id of a child by the module or path in its command line."""
        for line in Path("/proc").iterdir():
            if line.name.isdigit() and is_child(line, module, str(self.data_dir), self.process.pid):
                return int(line.name)
        raise LookupError(module)


def is_child(proc: Path, module: str, _data_dir: str, parent: int) -> bool:
    """Whether a process was started by `parent` and names the module."""
    try:
        command = (proc / "cmdline").read_bytes().decode().replace("\0", " ")
        status = (proc / "status").read_text()
    except OSError:
        return False
    return module in command and f"PPid:\t{parent}\n" in status


def cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command `deepwell`."""
    return subprocess.run(
        [str(BIN), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **(env or {})},
        check=False,
    )


def start(data_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> Running:
    """`deepwell up` on a free port, waited for until it is ready."""
    log = (data_dir.parent / f"{data_dir.name}.log").open("w")
    process = subprocess.Popen(
        [str(BIN), "up", "--data-dir", str(data_dir), "--port", "0", "--no-samples", *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    deadline = time.monotonic() + 120
    while not (data_dir / "server.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"deepwell up did not start: {Path(log.name).read_text()}")
        time.sleep(0.1)
    url = json.loads((data_dir / "server.json").read_text())["url"]
    return Running(data_dir, process, url, (data_dir / "api-key").read_text().strip())


def stop(running: Running) -> float:
    """SIGTERM; the seconds until the process was gone."""
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=120)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def deepwell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A platform for the tests of one module."""
    running = start(tmp_path_factory.mktemp("platform") / "data")
    yield running
    if running.process.poll() is None:
        stop(running)


@dataclass
class Clients:
    """The platform that clients' own libraries are tried on: a thinking model, two knowledge bases, a key a role."""

    running: Running
    #: secret by role, see ROLES
    keys: dict[str, str]

    @property
    def url(self) -> str:
        """Its address."""
        return self.running.url

    @property
    def key(self) -> str:
        """The operator's key."""
        return self.running.key


ROLES: dict[str, dict[str, Any]] = {
    "chat": {"scopes": ["chat"]},
    "retrieve": {"scopes": ["retrieve"]},
    "ingest": {"scopes": ["ingest"]},
    "admin": {"scopes": ["admin"]},
    "bound": {"scopes": ["chat", "retrieve", "ingest"], "knowledge_bases": ["other"]},
    "slow": {"scopes": ["chat"], "concurrent_answers": 1},
    "few": {"scopes": ["chat"], "requests_per_minute": 2},
    "ollama": {"scopes": ["chat", "retrieve"], "secret": "ollama"},
}


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """One platform for every test of clients."""
    upstream = Upstream()
    upstream.start()
    folder = tmp_path_factory.mktemp("clients")
    chat = {"SERVER": "openai", "URL": upstream.url, "MODEL": MODEL, "TOOLS": "on"}
    running = start(folder / "data", env={f"DEEPWELL_CHAT__{name}": value for name, value in chat.items()})
    try:
        (folder / "handbook.md").write_text("# Leave\n\nFull-time staff have twenty-five days of annual leave.\n")
        (folder / "secret.md").write_text("# Secret\n\nThe password of the vault is marzipan.\n")
        running.cli("add", str(folder / "handbook.md"), "--kb", "handbook")
        running.cli("add", str(folder / "secret.md"), "--kb", "other")
        keys = {}
        with httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}) as http:
            for role, body in ROLES.items():
                made = http.post("/v1/keys", json={"name": role, **body})
                assert made.status_code == 201, made.text
                keys[role] = made.json()["key"]
        yield Clients(running, keys)
    finally:
        stop(running)
        upstream.stop()
