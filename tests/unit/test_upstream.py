"""The HTTP client against a loopback server: framing, keep-alive, back-pressure, cancelling, silence, garbage."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.connection import HIGH_WATER, Connection
from connectors.upstream import Upstream, authorization, event_data
from pipelines.errors import ModelUnavailable
from tests.unit.scripted_server import delta, raw, reply, scripted, sse

EVENTS = [delta(content=f"word {i} 日本語") for i in range(20)]


async def collect(url: str) -> list[bytes]:
    async with await Upstream(url).request("POST", "/chat", b"{}") as answer:
        return [event async for event in answer.events()]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1000, 0])
async def test_events_come_whole_whatever_the_pieces(step: int) -> None:
    body = sse(*EVENTS)
    async with scripted(reply(body, step=step)) as server:
        events = await collect(server.url)
    assert b"".join(b"data: " + event + b"\n\n" for event in events) == body


@pytest.mark.parametrize("step", [1, 5, 0])
async def test_carriage_returns_comments_and_other_fields(step: int) -> None:
    body = b': hello\r\n\r\nevent: x\r\nid: 3\r\ndata: {"a":1}\r\n\r\ndata:{"b":2}\r\n\r\n'
    body += b"data: one\r\ndata: two\r\n\r\ndata: end"
    async with scripted(reply(body, step=step)) as server:
        assert await collect(server.url) == [b'{"a":1}', b'{"b":2}', b"one\ntwo", b"end"]


CONTENT = st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(CONTENT, max_size=12), st.data())
async def test_poured_chunks_are_whole_whatever_the_pieces(contents: list[bytes], data: st.DataObject) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    extension = data.draw(st.sampled_from([b"", b";a=b"]))
    chunks = [b"%x%b\r\n%b\r\n" % (len(each), extension, each) for each in contents]
    sent = head + b"".join(chunks) + b"0\r\n\r\n"
    if data.draw(st.booleans()):  # as servers send them
        edges = [0, len(head)]
        for each in chunks:
            edges.append(edges[-1] + len(each))
        edges.append(len(sent))
    else:
        edges = [0, *sorted(data.draw(st.lists(st.integers(1, len(sent) - 1), max_size=12))), len(sent)]
    connection, poured = Connection(), list[bytes]()
    connection.pour(poured.append, timeout=60)
    for begin, end in pairwise(edges):
        held = data.draw(st.booleans())
        connection.hold(held)
        connection.data_received(sent[begin:end])
        if held:
            connection.hold(False)
    connection.pour(None)
    connection.connection_lost(None)
    assert b"".join(poured) == b"".join(contents)
    assert poured[-1] == b""
    assert connection.complete and connection.lost is None


def test_event_data() -> None:
    assert event_data(b": comment") == b""
    assert event_data(b"data: x") == b"x"


async def test_a_connection_is_kept_and_used_again() -> None:
    async with scripted(reply(b'{"ok":1}')) as server:
        upstream = Upstream(server.url)
        for _ in range(3):
            async with await upstream.request("GET", "/") as answer:
                assert await answer.json() == {"ok": 1}
        assert (server.connections, len(server.requests)) == (1, 3)
        upstream.close()


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    closing = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    async with scripted(closing) as server:
        upstream = Upstream(server.url)
        for _ in range(3):
            async with await upstream.request("POST", "/", b"{}") as answer:
                assert await answer.json() == {}
            await asyncio.sleep(0.02)
        assert len(server.requests) == 3
        upstream.close()


async def test_leaving_early_closes_the_connection() -> None:
    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"9\r\ndata: x\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with scripted(endless) as server:
        async with await Upstream(server.url).request("POST", "/", b"{}") as answer:
            async for _ in answer.events():
                break
        for _ in range(100):
            await asyncio.sleep(0.01)
            if server.dropped:
                break
        assert server.dropped == 1


async def test_a_slow_reader_stops_the_sender() -> None:
    sent = 0

    async def flood(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with scripted(flood) as server, await Upstream(server.url).request("GET", "/") as answer:
        await answer.read()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40_000_000  # kernel buffers and ours, not everything
        assert len(await answer.read()) <= HIGH_WATER + 1_000_000


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (raw(b"hello, I am no web server\r\n\r\n"), "not HTTP"),
        (raw(b""), "does not answer"),
        (raw(b"HTTP/1.1 200 OK\r\n"), "does not answer"),
    ],
)
async def test_no_answer(script: object, words: str) -> None:
    async with scripted(script) as server:  # type: ignore[arg-type]
        with pytest.raises(ModelUnavailable, match=words) as error:
            await Upstream(server.url).request("GET", "/")
        assert server.url in str(error.value)


async def test_closed_in_the_middle() -> None:
    async with (
        scripted(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")) as server,
        await Upstream(server.url).request("GET", "/") as answer,
    ):
        assert await answer.read() == b"abc"
        with pytest.raises(ModelUnavailable, match="broke off"):
            await answer.read()


async def test_silence_is_an_error_after_the_timeout() -> None:
    silent = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", then_close=False)
    async with scripted(silent) as server, await Upstream(server.url, timeout=0.1).request("GET", "/") as answer:
        with pytest.raises(ModelUnavailable, match=r"nothing came for 0\.1 s"):
            await answer.read()
    async with scripted(raw(b"", then_close=False)) as server:
        with pytest.raises(ModelUnavailable, match="nothing came"):
            await Upstream(server.url, timeout=0.1).request("GET", "/")


async def test_nobody_listens(free_port: int) -> None:
    with pytest.raises(ModelUnavailable, match="no model server answers at http"):
        await Upstream(f"http://127.0.0.1:{free_port}").request("GET", "/")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "file:///etc"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ModelUnavailable):
        Upstream(url)


async def test_json_that_is_none() -> None:
    async with (
        scripted(reply(b"<html>hello</html>")) as server,
        await Upstream(server.url).request("GET", "/") as answer,
    ):
        with pytest.raises(ModelUnavailable, match="<html>"):
            await answer.json()


def test_forms_of_a_key() -> None:
    assert authorization("sk-1") == "Bearer sk-1"
    assert authorization("Token abc") == "Token abc"
    assert authorization("bare:abc") == "abc"


async def test_headers_cannot_be_injected() -> None:
    async with scripted(reply(b"{}")) as server:
        upstream = Upstream(server.url, api_key="x\r\nevil: 1")
        async with await upstream.request("GET", "/") as answer:
            await answer.body()
        assert "evil" not in server.requests[0][1]
        upstream.close()


async def test_many_at_once() -> None:
    async with scripted(reply(sse(*EVENTS), step=50)) as server:
        upstream = Upstream(server.url)

        async def one() -> int:
            async with await upstream.request("POST", "/", b"{}") as answer:
                return len([event async for event in answer.events()])

        assert await asyncio.gather(*(one() for _ in range(50))) == [21] * 50
        upstream.close()


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with scripted(raw(b"", then_close=False)) as server:
        upstream = Upstream(server.url)
        task = asyncio.create_task(upstream.request("GET", "/"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.connections == 1
        assert not upstream._idle
