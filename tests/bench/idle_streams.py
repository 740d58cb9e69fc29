"""What a stream costs while the model is silent: memory of the service process for each open one, and its CPU.

Twice as many against once as many, so that pools of threads and connections, which are there once, do not count.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.e2e.conftest import Running, start, stop
from tests.e2e.upstream import MODEL, Upstream

STREAMS = 300
TARGET_KB = 30.0
SECONDS = 10.0


async def open_stream(running: Running) -> asyncio.StreamWriter:
    """A streamed chat whose model says nothing yet; its first frame has been read."""
    address = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "LONG"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {running.key}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"data: ")
    return writer


async def measure(running: Running) -> dict[str, float]:
    """Kilobytes and CPU milliseconds a minute for each idle stream."""
    service = next(
        child
        for child in psutil.Process(running.process.pid).children(recursive=True)
        if "services.app" in child.cmdline()
    )
    writers = await asyncio.gather(*(open_stream(running) for _ in range(STREAMS)))
    before = service.memory_info().rss
    writers += await asyncio.gather(*(open_stream(running) for _ in range(STREAMS)))
    grown = (service.memory_info().rss - before) / STREAMS / 1024
    began = sum(service.cpu_times()[:2])
    await asyncio.sleep(SECONDS)
    cpu = (sum(service.cpu_times()[:2]) - began) / len(writers) * 60 / SECONDS * 1000
    for writer in writers:
        writer.close()
    return {"kilobytes": grown, "cpu_ms_a_minute": cpu}


def run() -> dict[str, object]:
    """Open them all at once against the whole product."""
    upstream = Upstream()
    upstream.start()
    with tempfile.TemporaryDirectory() as folder:
        chat = {"SERVER": "openai", "URL": upstream.url, "MODEL": MODEL}
        running = start(Path(folder) / "data", env={f"DEEPWELL_CHAT__{name}": value for name, value in chat.items()})
        try:
            figures = asyncio.run(measure(running))
        finally:
            stop(running)
            upstream.stop()
    print(f"{STREAMS} idle streams: {figures['kilobytes']:.1f} KB each (target <= {TARGET_KB:.0f})")
    print(f"{'':14}  {figures['cpu_ms_a_minute']:.2f} ms of CPU a minute each")
    assert figures["kilobytes"] <= TARGET_KB, f"an idle stream costs {figures['kilobytes']:.1f} KB"
    return dict(figures)


if __name__ == "__main__":
    run()
