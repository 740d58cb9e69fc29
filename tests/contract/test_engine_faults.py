"""The faults that no real server makes on demand, for every connector alike, on a scripted server."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import orjson
import pytest
from langchain_core.messages import HumanMessage

from connectors.models import llamacpp, ollama, openai, vllm
from pipelines.delta import Delta
from pipelines.errors import BadRequest, ModelUnavailable, RagError, TooManyRequests
from pipelines.profiles import profile_for
from tests.unit.scripted_server import Script, delta, raw, reply, scripted, sse

CONNECTORS = {"llamacpp": llamacpp, "vllm": vllm, "openai": openai, "ollama": ollama}
NAME = "deepseek-r1:7b"
ERROR = b'{"error":{"message":"no such thing"}}'
LISTS = {"ollama": b'{"models":[{"name":"other:1b"}]}'}
LISTING = b'{"data":[{"id":"other:1b"}]}'


def pieces(name: str, *texts: str, end: bool) -> bytes:
    """A stream of this connector's server: texts, then its end or not."""
    if name == "ollama":
        lines = [{"message": {"content": text}, "done": False} for text in texts]
        last = [{"message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}] if end else []
        return b"".join(orjson.dumps(line) + b"\n" for line in [*lines, *last])
    events = [delta(content=text) for text in texts]
    return sse(*events, *([delta("stop")] if end else []), done=end)


def chat(name: str, url: str, **fields: Any) -> Any:
    return CONNECTORS[name].chat(url, NAME, **{"profile": profile_for("plain"), **fields})


async def whole(name: str, url: str, **fields: Any) -> list[Delta]:
    stream = chat(name, url, **fields).stream_deltas([HumanMessage("Hi")])
    return [delta async for delta in stream]


@pytest.fixture(params=list(CONNECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (reply(ERROR, "401 Unauthorized"), ModelUnavailable, "refused the key .*DEEPWELL_CHAT__API_KEY"),
        (reply(ERROR, "403 Forbidden"), ModelUnavailable, "refused the key"),
        (reply(ERROR, "400 Bad Request"), BadRequest, "no such thing"),
        (reply(ERROR, "500 Oops"), ModelUnavailable, r"failed \(500: no such thing\)"),
        (reply(b"<html>bad", "502 Bad Gateway"), ModelUnavailable, "502"),
        (reply(ERROR, "503 Busy"), ModelUnavailable, "503"),
        (raw(b"SSH-2.0-OpenSSH_9\r\n"), ModelUnavailable, "does not answer"),
        (raw(b""), ModelUnavailable, "does not answer"),
    ],
)  # fmt: skip
async def test_refused_before_a_word_came(name: str, fault: Script, error: type[RagError], words: str) -> None:
    async with scripted(fault) as server:
        with pytest.raises(error, match=words) as raised:
            await whole(name, server.url)
        assert server.url in str(raised.value)
        assert len(server.requests) == 1, "what may have been received is not sent again"


async def test_an_unknown_name_comes_with_the_names_there_are(name: str) -> None:
    async with scripted(reply(ERROR, "404 Not Found"), reply(LISTS.get(name, LISTING))) as server:
        with pytest.raises(ModelUnavailable, match=f"'{NAME}'.*It has: other:1b.*DEEPWELL_CHAT__MODEL"):
            await whole(name, server.url)


async def test_a_limit_says_when_to_come_back(name: str) -> None:
    async with scripted(reply(ERROR, "429 Too Many Requests", "retry-after: 7\r\n")) as server:
        with pytest.raises(TooManyRequests) as raised:
            await whole(name, server.url)
    assert raised.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda name: reply(pieces(name, "He", end=False)), "before the answer's end"),
        (lambda name: raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + pieces(name, "He", end=False)),
         "broke off"),
        (lambda name: raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), "broke off|not HTTP"),
        (lambda name: reply(pieces(name, "He", end=False) + (b"{no json\n" if name == "ollama" else b"data: {no\n\n")),
         "no event"),
        (lambda name: reply(b""), "before the answer's end"),
    ],
)  # fmt: skip
async def test_broken_in_the_middle(name: str, wrong: Callable[[str], Script], words: str) -> None:
    async with scripted(wrong(name)) as server:
        with pytest.raises(ModelUnavailable, match=words):
            await whole(name, server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_silence_ends_after_the_timeout(name: str, chunked: bool) -> None:
    async def silent(path: str, writer: asyncio.StreamWriter) -> None:
        piece = pieces(name, "He", end=False)
        framed = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(piece), piece)
        writer.write(b"HTTP/1.1 200 OK\r\n" + (framed if chunked else b"\r\n" + piece))
        await asyncio.sleep(60)

    async with scripted(silent) as server:
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"nothing came for 0\.2 s"):
            await whole(name, server.url, timeout=0.2)
        assert time.monotonic() - began < 30


async def test_a_slow_server_is_waited_for_and_leaving_it_closes_the_connection(name: str) -> None:
    async def slow(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(pieces(name, "word ", end=False))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with scripted(slow) as server:
        async with aclosing(chat(name, server.url).stream_deltas([HumanMessage("Hi")])) as stream:
            assert (await anext(stream)).content == "word "
        left = time.monotonic()
        while not server.dropped:
            assert time.monotonic() - left < 30
            await asyncio.sleep(0.01)


async def test_leaving_before_the_first_byte_closes_the_connection(name: str) -> None:
    gone = asyncio.Event()

    async def queue(path: str, writer: asyncio.StreamWriter) -> None:
        while not writer.transport.is_closing():
            writer.write(b"" if writer.transport.is_closing() else b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        gone.set()

    async with scripted(queue) as server:
        asking = asyncio.ensure_future(whole(name, server.url))
        while not server.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})
        left = time.monotonic()
        while not (gone.is_set() or server.dropped):
            assert time.monotonic() - left < 30
            await asyncio.sleep(0.01)
