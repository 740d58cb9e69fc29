"""`/v1/embeddings` as Dify uses it: one text a request. One after the other, against 16 at a time, batched in between.

The client is a bare socket in this process: an HTTP library in Python costs more than the server. Ratios are of wall
time inside one run; the machine's other work is in both. What can be gained is bounded: batching saves the cost of a
call of the model (most of a short text's, hardly any of a passage's), and at most every core works at once. `bulk` is
the bound: the same texts in one request.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tests.e2e.conftest import Running, start, stop
from tests.e2e.upstream import MODEL, Upstream

REQUESTS = 1000
PARALLEL = 16
TARGET = 5.0
WORDS = (
    "annual",
    "leave",
    "staff",
    "office",
    "holiday",
    "travel",
    "hotel",
    "limit",
    "night",
    "receipt",
    "form",
    "week",
)


async def send(running: Running, texts: list[str]) -> None:
    """Send one request for each text over one connection, one after the other."""
    address = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {running.key}\r\n"
    for text in texts:
        body = json.dumps({"input": text, "model": "deepwell-embedding", "encoding_format": "base64"}).encode()
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in answer.split(b"\r\n")[0], answer
        await reader.readexactly(int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.close()


async def timed(running: Running, texts: list[str], parallel: int) -> float:
    """Seconds for all of them over so many connections."""
    began = time.perf_counter()
    await asyncio.gather(*(send(running, texts[i::parallel]) for i in range(parallel)))
    return time.perf_counter() - began


def texts(words: int, count: int, seed: int) -> list[str]:
    """Texts of so many words, all of them different."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]


async def bulk(running: Running, many: list[str]) -> float:
    """Seconds for all of them in one request."""
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}) as client:
        answer = await client.post("/v1/embeddings", json={"input": many, "encoding_format": "base64"}, timeout=300)
    assert len(answer.json()["data"]) == len(many)
    return time.perf_counter() - began


def measure(running: Running, words: int, count: int) -> dict[str, float]:
    """Milliseconds a text, three ways: of wall time, and of the service's CPU, which other load does not lengthen."""
    service = psutil.Process(running.pid("services.app"))

    def each(work: Coroutine[None, None, float]) -> tuple[float, float]:
        before = sum(service.cpu_times()[:2])
        wall = asyncio.run(work)
        return wall / count * 1e3, (sum(service.cpu_times()[:2]) - before) / count * 1e3

    single, single_cpu = each(timed(running, texts(words, count, 1), 1))
    parallel, parallel_cpu = each(timed(running, texts(words, count, 2), PARALLEL))
    bound, bound_cpu = each(bulk(running, texts(words, count, 3)))
    ratio = single / parallel
    print(f"{words:>4} words  {single:>10.2f} ms{parallel:>12.2f} ms{bound:>9.2f} ms{ratio:>8.1f}")
    saved = single_cpu / parallel_cpu
    print(f"{'  CPU':<12}{single_cpu:>10.2f} ms{parallel_cpu:>12.2f} ms{bound_cpu:>9.2f} ms{saved:>8.1f}")
    return {
        "one_by_one_ms": single,
        "parallel_ms": parallel,
        "bulk_ms": bound,
        "ratio": ratio,
        "one_by_one_cpu_ms": single_cpu,
        "parallel_cpu_ms": parallel_cpu,
        "bulk_cpu_ms": bound_cpu,
    }


def run() -> dict[str, object]:
    """Measure texts of a phrase, a sentence and a passage."""
    upstream = Upstream()
    upstream.start()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        chat = {"SERVER": "openai", "URL": upstream.url, "MODEL": MODEL}
        running = start(Path(folder) / "data", env={f"DEEPWELL_CHAT__{name}": value for name, value in chat.items()})
        try:
            asyncio.run(timed(running, texts(12, 64, 0), 4))
            print(
                f"{'text':<12}{'one by one':>13}{f'{PARALLEL} parallel':>15}{'bulk':>12}{'ratio':>8}  target {TARGET}"
            )
            for words, count in ((3, REQUESTS), (12, REQUESTS), (150, REQUESTS // 10)):
                figures[f"{words} words"] = measure(running, words, count)
        finally:
            stop(running)
            upstream.stop()
    best = max(figure["ratio"] for figure in figures.values())
    assert best >= TARGET, f"16 in parallel are {best:.1f} times as fast as one by one, not {TARGET:.0f} times"
    return dict(figures)


if __name__ == "__main__":
    run()
