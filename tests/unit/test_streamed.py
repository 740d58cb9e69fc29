"""Streamed completions: the same frames by relay as by events, limits, faults, slow clients, clients that leave."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from pipelines.errors import BadRequest, ModelUnavailable, RagError, TooManyRequests
from pipelines.profiles import profile_for
from services import streamed
from tests.unit.scripted_server import Script, delta, raw, reply, scripted, sse
from tests.unit.streaming import Client, ask

USAGE = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}}
PLAIN = profile_for("", "plain")
QUESTION = "How many days of annual leave do I have?"
PASSAGES = ("Full-time staff have twenty-five days of annual leave.", "The coffee machine is on the second floor.")
WINDOW = reply(orjson.dumps({"data": [{"id": "deepseek-r1:7b", "max_model_len": 8192}]}))


def events(*texts: str, field: str = "content", finish: str = "stop") -> list[Any]:
    return [*(delta(**{field: text}) for text in texts), delta(finish), USAGE]


TAGS = sse(
    *events(
        "<think>", "Let me ", "look.", "</think>", "\n\nTwenty-five ", "days [cita", "tion:1]", ".", " Ask ", "early."
    )
)
SEPARATE = sse(
    *[delta(reasoning_content=text) for text in ("\nLet ", "me ", "look.")],
    *events(
        "Twenty-five ", "days\n", '"so" ', "<b>it</b> ", "says [citation:1].", " And [citation:7]", " more", " words."
    ),
)


def server(answer: bytes, step: int = 0) -> Script:
    """The window when it is asked for, an answer to everything else."""

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        await (WINDOW if path.endswith("/models") else reply(answer, step=step))(path, writer)

    return run


def asks(content: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": asks(),
    "usage": asks(stream_options={"include_usage": True}),
    "history": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>x</think>Hello"},
            {"role": "user", "content": QUESTION},
        ]
    },
    "stop": asks(stop=["early"]),
    "no thinking": asks(reasoning_effort="none"),
    "budget": asks(thinking_budget=600),
    "tools": asks(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    "cards": asks(cards=True),
    "few tokens": asks(max_tokens=64),
    "japanese": asks("年次有給休暇は何日ありますか。"),
}


@pytest.mark.parametrize("form", ["reasoning_content", "reasoning", "think_tags", "none"])
@pytest.mark.parametrize("upstream", [TAGS, SEPARATE], ids=["tags", "separate"])
@pytest.mark.parametrize("passages", [(), PASSAGES], ids=["chat", "rag"])
@pytest.mark.parametrize("request_name", sorted(REQUESTS))
async def test_the_same_frames_by_relay_as_by_events(
    request_name: str, passages: tuple[str, ...], upstream: bytes, form: str
) -> None:
    body = REQUESTS[request_name]
    frames, sent = [], []
    for relayed in (True, False):
        async with scripted(server(upstream, step=700)) as seen:
            client = await ask(seen.url, body, relayed=relayed, passages=passages, form=form)
            frames.append(client.frames)
            sent.append([(line, data) for line, _, data in seen.requests])
    assert frames[0] == frames[1]
    assert sent[0] == sent[1]
    assert frames[0][-1] == b"data: [DONE]"


async def test_an_ordinary_answer() -> None:
    async with scripted(server(TAGS)) as seen:
        client = await ask(seen.url, asks(), passages=PASSAGES)
    assert client.text("reasoning_content") == "Let me look."
    assert client.text("content") == "Twenty-five days [1]. Ask early."
    assert client.last["usage"]["completion_tokens"] == 9
    assert client.last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    (note,) = client.last["choices"][0]["delta"]["annotations"]
    assert note["url_citation"]["start_index"] == client.text("content").index("[1]")
    assert sum("search_results" in f for f in client.frames if isinstance(f, dict)) == 1
    assert client.sent[0]["status"] == 200
    assert dict(client.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")


# -- thinking that does not end ------------------------------------------------------------------------------------

ENDLESS = sse(*[delta(reasoning_content="hmm ") for _ in range(5000)], delta("stop"))
IN_TAGS = sse(delta(content="<think>"), *[delta(content="hmm ") for _ in range(5000)], delta("stop"))
RESUMED = sse({"choices": [{"index": 0, "text": "Twenty-five days.", "finish_reason": "stop"}]}, USAGE)


@pytest.mark.parametrize("thinking", [ENDLESS, IN_TAGS], ids=["field", "tags"])
@pytest.mark.parametrize("relayed", [True, False])
async def test_thinking_is_ended_at_its_limit_and_an_answer_follows(thinking: bytes, relayed: bool) -> None:
    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        script = WINDOW if path.endswith("/models") else reply(RESUMED if path == "/v1/completions" else thinking)
        await script(path, writer)

    async with scripted(run) as seen:
        client = await ask(seen.url, asks(thinking_budget=100), relayed=relayed)
    assert client.text("content") == "Twenty-five days."
    assert 100 <= client.text("reasoning_content").count("hmm") <= 110
    assert client.last["choices"][0]["finish_reason"] == "stop"
    assert "at its limit" in client.last["warnings"][0]


@pytest.mark.parametrize("relayed", [True, False])
async def test_where_thinking_cannot_be_continued_a_sentence_says_so(relayed: bool) -> None:
    async with scripted(server(sse(delta(reasoning_content="hmm"), delta("length"), USAGE))) as seen:
        client = await ask(seen.url, asks(), relayed=relayed, profile=PLAIN)
    assert "used up its" in client.text("content")
    assert client.last["choices"][0]["finish_reason"] == "length"


# -- faults --------------------------------------------------------------------------------------------------------

HALF = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b"data: " + orjson.dumps(delta(content="Half an ")) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


BEFORE: dict[str, tuple[Script, type[RagError], str]] = {
    "5xx": (reply(b'{"error":"boom"}', "500 Oops"), ModelUnavailable, "boom"),
    "429": (reply(b"{}", "429 Slow down", "retry-after: 7\r\n"), TooManyRequests, "limit"),
    "token": (reply(b"{}", "401 No"), ModelUnavailable, "DEEPWELL_CHAT__API_KEY"),
    "model": (reply(b'{"error":"no such model"}', "404 No"), ModelUnavailable, "DEEPWELL_CHAT__MODEL"),
    "bad": (reply(b'{"error":"too long"}', "400 Bad"), BadRequest, "too long"),
    "garbage": (raw(b"\x00\x01\x02 nonsense\r\n\r\n"), ModelUnavailable, "not HTTP"),
    "html": (reply(b"<html>hello</html>\n\n"), ModelUnavailable, "end"),
    "no event": (reply(b"data: {broken\n\n"), ModelUnavailable, "no event"),
    "error event": (reply(sse({"error": {"message": "out of memory"}})), ModelUnavailable, "out of memory"),
    "refusing event": (reply(sse({"error": {"message": "too long", "code": 400}})), BadRequest, "too long"),
    "nothing": (raw(b""), ModelUnavailable, "does not answer"),
    "empty stream": (reply(b"data: [DONE]\n\n"), ModelUnavailable, ""),
    "closes": (raw(HALF), ModelUnavailable, "broke off"),
}


@pytest.mark.parametrize("name", sorted(set(BEFORE) - {"empty stream"}))
@pytest.mark.parametrize("relayed", [True, False])
async def test_what_goes_wrong_before_the_first_token_is_a_status(name: str, relayed: bool) -> None:
    script, error, words = BEFORE[name]

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        await (WINDOW if path.endswith("/models") else script)(path, writer)

    client = Client()
    async with scripted(run) as seen:
        with pytest.raises(error, match=words) as raised:
            await ask(seen.url, asks(), relayed=relayed, client=client)
        posts = [line for line, *_ in seen.requests if line.startswith("POST")]
    assert not client.sent
    # sent again only where a kept-alive connection turns out to be closed: the server may not have seen the first
    assert len(posts) == (2 if name == "nothing" else 1)
    if name == "429":
        assert isinstance(raised.value, TooManyRequests) and raised.value.retry_after == 7


async def test_a_server_that_is_down_is_a_status() -> None:
    async with scripted(WINDOW) as seen:
        pass
    with pytest.raises(ModelUnavailable, match="DEEPWELL_CHAT__URL"):
        await ask(seen.url, asks())


@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize(
    ("rest", "words"),
    [(b"", "broke off"), (b"0\r\n\r\n", "before the answer's end"), (chunk(b"data: {broken\n\n"), "no event")],
)
async def test_what_goes_wrong_later_is_one_error_frame(rest: bytes, words: str, relayed: bool) -> None:
    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        script = WINDOW if path.endswith("/models") else raw(HALF + chunk(PIECE) + rest)
        await script(path, writer)

    async with scripted(run) as seen:
        client = await ask(seen.url, asks(), relayed=relayed, profile=PLAIN)
    assert client.text("content") == "Half an "
    *before, error = client.frames
    assert words in error["error"]["message"] and "choices" not in error
    assert not any("error" in f for f in before if isinstance(f, dict))
    assert client.sent[-1]["more_body"] is False
    assert b"[DONE]" not in client.body


async def test_an_answer_without_a_word_is_a_sentence() -> None:
    async with scripted(server(sse(delta("stop"), USAGE))) as seen:
        client = await ask(seen.url, asks())
    assert "without writing an answer" in client.text("content")


# -- slow servers, slow clients, clients that leave ----------------------------------------------------------------


async def test_a_long_silence_before_the_first_word_is_told_as_thinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cherry Studio's timer counts deltas, not comments."""
    monkeypatch.setattr(streamed, "PATIENCE", 0.05)
    monkeypatch.setattr(streamed, "QUIET", 0.05)
    went_on = asyncio.Event()

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        if not path.endswith("/models"):
            await went_on.wait()
        await (WINDOW if path.endswith("/models") else reply(SEPARATE))(path, writer)

    async with scripted(run) as seen:
        client = Client()
        work = asyncio.create_task(ask(seen.url, asks(), client=client))
        async with asyncio.timeout(30):
            while b"Waiting for the model" not in client.body:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        went_on.set()
        await work
    assert client.text("reasoning_content").startswith("Waiting for the model…\n")
    assert client.text("reasoning_content").endswith("Let me look.")
    assert client.text("content").startswith("Twenty-five days")


@pytest.mark.parametrize(("options", "places"), [({}, [1, 0]), ({"include_usage": True}, [0, 1]),
                                                ({"include_usage": False}, [0, 0])])  # fmt: skip
async def test_usage_comes_once_or_not_at_all(options: dict[str, Any], places: list[int]) -> None:
    async with scripted(server(SEPARATE)) as seen:
        client = await ask(seen.url, asks(stream_options=options))
    with_usage = [frame for frame in client.frames if isinstance(frame, dict) and "usage" in frame]
    assert [len([f for f in with_usage if bool(f["choices"]) is has]) for has in (True, False)] == places


async def test_a_slow_server_commits_the_status_and_keeps_the_client_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PATIENCE", 0.05)
    monkeypatch.setattr(streamed, "QUIET", 0.1)

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        if not path.endswith("/models"):
            await asyncio.sleep(0.5)
        await (WINDOW if path.endswith("/models") else reply(b"{}", "503 Busy"))(path, writer)

    async with scripted(run) as seen:
        client = await ask(seen.url, asks())
    assert client.sent[0]["status"] == 200
    assert client.frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert client.frames.count(b": keep-alive") >= 2
    assert client.frames[-1]["error"]["code"] == "model_unavailable"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own, a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Endless:
    """A server that writes for ever, and knows how much it got rid of and when it was left."""

    def __init__(self, pause: float = 0.0, piece: bytes = PIECE) -> None:
        self.sent, self.pause, self.piece = 0, pause, piece
        self.left = asyncio.Event()

    async def __call__(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            await WINDOW(path, writer)
            return
        writer.transport.set_write_buffer_limits(4096)
        writer.write(HALF)
        try:
            while True:
                writer.write(chunk(self.piece))
                await writer.drain()
                self.sent += len(self.piece)
                await asyncio.sleep(self.pause)
        except (ConnectionError, OSError):
            self.left.set()
            raise


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["while tokens come", "between two tokens"])
async def test_the_server_is_left_when_the_client_leaves(pause: float) -> None:
    upstream, client = Endless(pause), Client()
    async with scripted(upstream) as seen:
        task = asyncio.create_task(ask(seen.url, asks(), client=client, profile=PLAIN))
        await until(lambda: len(client.sent) >= 5)
        client.gone.set()
        await asyncio.wait_for(task, 60)
        await asyncio.wait_for(upstream.left.wait(), 60)


async def test_the_server_is_left_while_it_is_silent() -> None:
    left = asyncio.Event()

    async def silent(path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            await WINDOW(path, writer)
            return
        await writer.wait_closed()
        left.set()

    client = Client()
    async with scripted(silent) as seen:
        task = asyncio.create_task(ask(seen.url, asks(), client=client, profile=PLAIN))
        await until(lambda: any(line.startswith("POST") for line, *_ in seen.requests))
        client.gone.set()
        await asyncio.wait_for(task, 60)
        await asyncio.sleep(0)


async def test_a_slow_client_slows_the_server_down() -> None:
    piece = b"data: " + orjson.dumps(delta(content="x" * 2000)) + b"\n\n"
    upstream, client = Endless(piece=piece), Client()
    async with scripted(upstream) as seen:
        task = asyncio.create_task(ask(seen.url, asks(), client=client, profile=PLAIN))
        await until(lambda: len(client.sent) >= 5)
        client.reads.clear()
        before = -1
        while before != upstream.sent:
            before = upstream.sent
            await asyncio.sleep(0.2)
        held = upstream.sent - len(client.body)
        count = len(client.sent)
        client.reads.set()
        await until(lambda: len(client.sent) >= count + 5)
        client.gone.set()
        await asyncio.wait_for(task, 60)
    assert held < 16 << 20, "more than the sockets' buffers waited for a slow client"


async def test_clients_that_leave_leave_nothing_behind() -> None:
    upstream = Endless(0.001)
    async with scripted(upstream) as seen:
        for i in range(60):
            client = Client()
            task = asyncio.create_task(ask(seen.url, asks(), client=client, profile=PLAIN))
            await until(lambda client=client, i=i: len(client.sent) >= i % 3)
            client.gone.set()
            await asyncio.wait_for(task, 60)
        await asyncio.sleep(0.1)
        ours = [task for task in asyncio.all_tasks() if "scripted" not in repr(task)]
        assert ours == [asyncio.current_task()]
