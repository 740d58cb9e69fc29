"""`deepwell plan --verify` against the real llama.cpp, and vLLM where it can be had; Ollama's answers as it documents
them, for it is not a package."""

import asyncio
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from connectors import gguf
from connectors.models.llamacpp import server_command
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.planner.hardware import MIB, Hardware
from pipelines.planner.plan import plan
from pipelines.planner.request import Request
from services import sizing
from services.cli import main
from services.models import chosen
from services.supervisor import Child, Children
from tests import engines, tiny_r1

CONTEXT, SLOTS = 2048, 2
#: the server as Deepwell starts it, but llama.cpp prints what it allocates
TALKATIVE = """
import sys, connectors.models.llamacpp as server
parameters = server._parameters
def talkative(*given):
    made = parameters(*given)
    made.verbosity = 5
    return made
server._parameters = talkative
sys.exit(server.main(sys.argv[1:]))
"""


@pytest.fixture
async def server(tmp_path: Path, free_port: int) -> AsyncIterator[str]:
    """llama.cpp with the packaged stand-in."""
    url = f"http://127.0.0.1:{free_port}"
    command = server_command(chosen(tmp_path).path, free_port, CONTEXT, threads=1, parallel=SLOTS, alias="stand-in")
    command = [command[0], "-c", TALKATIVE, *command[command.index("-m") + 2 :]]

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"{url}/health")).status_code == 200
        except httpx.TransportError:
            return False

    children = Children(tmp_path / "logs", backoff=(0.05, 0.2))
    await children.start(Child(name="model", command=command, ready=ready, start_timeout=60))
    await children.ready("model")
    yield url
    await children.stop()


async def test_llamacpp_agrees(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, window, vocabulary and cache to the last one, by name and from the file; the log's bytes too."""
    path = chosen(tmp_path).path
    for model, size in (sizing.model_of("smollm2:135m"), sizing.model_of(str(path))):
        request = Request(model=model, hardware=Hardware(ram=8 << 30), engine="llamacpp", context=CONTEXT, users=SLOTS,
                          file_bytes=size or gguf.read(path).size)  # fmt: skip
        made = plan(request)
        result = sizing.compared(made, await sizing.running(server + "/v1"))
        rows = {row["name"]: row for row in result["figures"]}
        assert set(rows) == {
            "parameters", "weights", "context", "vocab", "sequences", "max_model_len", "kv_cache_tokens",
        }  # fmt: skip
        exact = {name for name, row in rows.items() if row["deviation"] == 0}
        assert exact == set(rows) - {"weights"}
        assert result["ok"], rows["weights"]
    log = "\n".join(file.read_text(errors="replace") for file in (tmp_path / "logs").iterdir())
    (held,) = {float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", log)}
    assert held == pytest.approx(made.memory["kv_cache"] / MIB, abs=0.01)

    command = ["deepwell", "plan", "--model", str(path), "--ram", "8GiB", "--verify", server, "--json"]
    for more, code, actual in (([], 0, True), (["--context", "4096"], 3, False), (["--users", "9"], 3, False)):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
        assert int(ended.value.code or 0) == code
        assert json.loads(capsys.readouterr().out)["ok"] is actual


# -- an engine that answers as documented --------------------------------------------------------------------------

Served = Callable[[dict[str, str]], str]


@pytest.fixture
def serve() -> Iterator[Served]:
    """An HTTP server with given answers by path: JSON, or text where it is none."""
    running: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, str]) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = answers.get(self.path)
                self.send_response(404 if body is None else 200)
                kind = "application/json" if (body or "")[:1] in "{[" else "text/plain"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body or "")))
                self.end_headers()
                self.wfile.write((body or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Answers))
        threading.Thread(target=running[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


async def test_ollamas_answers(serve: Served) -> None:
    """Ollama docs/api, /api/ps."""
    row = {"name": "deepseek-r1:7b", "size": 6_000_000_000, "size_vram": 6_000_000_000, "context_length": 4096}
    url = serve({"/api/version": '{"version": "0.32.0"}', "/api/ps": json.dumps({"models": [row]})})
    found = await sizing.running(url)
    assert (found.engine, found.model) == ("ollama", "deepseek-r1:7b")
    request = Request(model=sizing.model_of("deepseek-r1:7b")[0], hardware=Hardware(ram=32 << 30), engine="ollama",
                      context=16384)  # fmt: skip
    result = sizing.compared(plan(request), found)
    (window,) = [row for row in result["figures"] if row["name"] == "max_model_len"]
    assert (window["predicted"], window["actual"], window["ok"]) == (16384, 4096, False), "the trap shows"
    idle = serve({"/api/version": '{"version": "0.32.0"}', "/api/ps": '{"models": []}'})
    with pytest.raises(ModelUnavailable, match="no model is loaded"):
        await sizing.running(idle)


async def test_something_else_is_said(serve: Served) -> None:
    with pytest.raises(ModelUnavailable, match="neither vLLM"):
        await sizing.running(serve({"/metrics": "python_gc_objects_collected_total 1"}))


async def test_the_wrong_engine_is_said(serve: Served) -> None:
    url = serve({
        "/metrics": 'vllm:cache_config_info{block_size="16",num_gpu_blocks="65058",gpu_memory_utilization="0.9"} 1.0\n',
        "/v1/models": '{"data": [{"id": "r1", "root": "r1-7b", "max_model_len": 16384}]}',
    })  # fmt: skip
    found = await sizing.running(url)
    assert found.values["kv_cache_tokens"] == 65058 * 16 == 1_040_928
    made = plan(Request(model=sizing.model_of("r1-7b")[0], hardware=Hardware(ram=32 << 30), engine="llamacpp"))
    with pytest.raises(BadRequest, match="--engine vllm"):
        sizing.compared(made, found)


@pytest.mark.slow
def test_real_vllm_says_its_figures(tmp_path: Path) -> None:
    """The gauge of a real vLLM, on the CPU: the names are those we read."""
    try:
        with engines.vllm_plain(tiny_r1.build(tmp_path), tmp_path / "log") as engine:
            found = asyncio.run(sizing.running(engine.url))
    except engines.NotHere as reason:
        pytest.skip(str(reason))
    assert found.engine == "vllm"
    assert found.values["max_model_len"] == engines.WINDOW
    assert found.values["kv_cache_tokens"] >= engines.WINDOW
    assert found.values["kv_cache_tokens"] == found.values["block_size"] * found.values["num_gpu_blocks"]


def test_a_gguf_with_experts_is_refused_by_name(tmp_path: Path) -> None:
    header = gguf.read(chosen(tmp_path).path)
    mixed = {**header.metadata, "llama.expert_count": 8}
    with pytest.raises(BadRequest, match="deepseek-r1:671b"):
        sizing.from_gguf(
            gguf.Gguf(**{**{f: getattr(header, f) for f in header.__dataclass_fields__}, "metadata": mixed})
        )
