"""The embedded model server: the real llama.cpp with the packaged stand-in, as a supervised child."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from connectors import gguf
from connectors.models.llamacpp import server_command
from pipelines.errors import Unavailable
from services.models import STAND_IN, chosen
from services.supervisor import Child, Children

ROOT = Path(__file__).parents[2]


def command(model: Path, port: int, context: int = 1024, parallel: int = 1) -> list[str]:
    return server_command(model, port, context, threads=1, parallel=parallel, alias=STAND_IN)


def child(port: int, argv: list[str]) -> Child:
    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        except httpx.TransportError:
            return False

    return Child(name="model", command=argv, ready=ready, start_timeout=60)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return chosen(tmp_path).path


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    kept = Children(tmp_path / "logs", backoff=(0.05, 0.2))
    yield kept
    await kept.stop()


async def test_it_serves_on_loopback_survives_a_kill_and_stops(children: Children, model: Path, free_port: int) -> None:
    """One server for the whole life of a child: each start loads a model."""
    await children.start(child(free_port, command(model, free_port, context=100_000)))
    await children.ready("model")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=60, trust_env=False) as client:
        (listed,) = (await client.get("/v1/models")).json()["data"]
        assert listed["id"] == STAND_IN
        slots = (await client.get("/slots")).json()
        assert [slot["n_ctx"] for slot in slots] == [8192], "the context is cut to what the model was trained for"
        assert "llamacpp:" in (await client.get("/metrics")).text
        assert (await client.get("/")).status_code == 404, "no web page"
        allowed = (await client.get("/health", headers={"Origin": "http://evil.example"})).headers
        assert allowed.get("access-control-allow-origin") not in ("*", "http://evil.example")
        question = {"messages": [{"role": "user", "content": "What is gravity?"}], "max_tokens": 4, "temperature": 0}
        answer = (await client.post("/v1/chat/completions", json=question)).json()
        assert "grav" in answer["choices"][0]["message"]["content"].lower()

        first = children.states()[0].pid
        os.kill(first or 0, signal.SIGKILL)
        while children.states()[0].pid in (first, None):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await children.ready("model")
        assert children.states()[0].restarts == 1

        endless = client.post("/v1/chat/completions", json=question | {"max_tokens": 4000, "ignore_eos": True})
        answering = asyncio.create_task(endless)
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await children.stop()
        assert time.monotonic() - began < 30, "an answer under way must not hold up the end"
        with pytest.raises(httpx.TransportError):
            await answering


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no model file"), (b"", "not a GGUF"), (b"<html>", "not a GGUF"), (b"GGUF\x03\0\0\0", "damaged")],
)
async def test_a_file_that_is_no_model_is_reported_once(
    children: Children, tmp_path: Path, free_port: int, content: bytes | None, words: str
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    await children.start(child(free_port, command(path, free_port)))
    with pytest.raises(Unavailable, match=words):
        await children.ready("model")
    assert children.states()[0].restarts == 0


async def run(argv: list[str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE, cwd=ROOT)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, err.decode()


async def test_a_file_that_is_cut_off(tmp_path: Path, model: Path, free_port: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[:20_000_000])  # noqa: ASYNC240
    code, err = await run(command(path, free_port))
    assert (code, len(err.splitlines())) == (78, 1)
    assert "20,000,000 bytes are there" in err


async def test_a_header_that_llama_cpp_does_not_know(tmp_path: Path, model: Path, free_port: int) -> None:
    path = tmp_path / "alien.gguf"
    data = model.read_bytes()  # noqa: ASYNC240
    path.write_bytes(data.replace(b"llama", b"allam"))
    assert gguf.read(path).architecture == "allam"
    code, err = await run(command(path, free_port))
    assert code == 78, err
    assert "cannot load" in err.splitlines()[-1], err


async def test_a_context_beyond_the_memory_says_what_would_fit(model: Path, free_port: int) -> None:
    """Never let llama.cpp try: the kernel would kill it, or something else."""
    code, err = await run(command(model, free_port, context=8192, parallel=2_000_000))
    assert code == 78
    assert "GiB for 2000000 x 8,192 tokens" in err
    assert "smaller model" in err


async def test_a_port_in_use_is_worth_another_try(model: Path, free_port: int) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        code, err = await run(command(model, free_port))
    assert code == 75
    assert f"port {free_port}" in err


async def test_importing_the_connector_does_not_load_llama_cpp() -> None:
    code = "import sys, connectors.models.llamacpp; sys.exit('xllamacpp' in sys.modules or 'psutil' in sys.modules)"
    assert (await run([sys.executable, "-c", code]))[0] == 0
