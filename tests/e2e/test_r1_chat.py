"""R1 through the whole service: what it is sent in a conversation, and what happens when its clients leave."""

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.e2e.conftest import Running, start, stop
from tests.e2e.recording_upstream import MODEL, RecordingUpstream

KB = f"{MODEL}-handbook"


@dataclass
class Platform:
    """A running Deepwell and the model server behind it."""

    running: Running
    upstream: RecordingUpstream

    def service(self) -> psutil.Process:
        """The process of the HTTP service."""
        return psutil.Process(self.running.pid("services.app"))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    upstream = RecordingUpstream()
    upstream.start()
    folder = tmp_path_factory.mktemp("r1")
    chat = {"SERVER": "openai", "URL": upstream.url, "MODEL": MODEL}
    running = start(folder / "data", env={f"DEEPWELL_CHAT__{name}": value for name, value in chat.items()})
    try:
        (folder / "handbook.md").write_text("# Leave\n\nFull-time staff have twenty-five days of annual leave.\n")
        running.cli("add", str(folder / "handbook.md"), "--kb", "handbook")
        yield Platform(running, upstream)
    finally:
        stop(running)
        upstream.stop()


@pytest.fixture
def http(platform: Platform) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {platform.running.key}"}
    with httpx.Client(base_url=platform.running.url, headers=headers, timeout=30) as client:
        yield client


# --- what R1 is sent ------------------------------------------------------------------------------------------------


def test_three_turns_as_r1_is_sent_them(platform: Platform, http: httpx.Client) -> None:
    """Each turn comes back in another form in which clients return thinking."""
    forms = (
        lambda said: {"content": f"<think>\n{said['reasoning_content']}\n</think>\n\n{said['content']}"},
        lambda said: {"content": f"<details type=\"reasoning\"><summary>Thought</summary>\n{said['reasoning_content']}"
                                 f"\n</details>\n{said['content']}", "reasoning": said["reasoning_content"],
                      "thinking": said["reasoning_content"], "reasoning_content": said["reasoning_content"]},
        lambda said: said,
    )  # fmt: skip
    first = len(platform.upstream.asked)
    conversation: list[dict[str, object]] = [{"role": "system", "content": "Be brief."}]
    for question, form in zip(("How many days of leave?", "And for part-time?", "Since when?"), forms, strict=True):
        conversation.append({"role": "user", "content": question})
        body = {"model": KB, "messages": conversation, "temperature": 0, "top_p": 1, "presence_penalty": 1}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.headers["x-ignored-params"] == "presence_penalty, temperature, top_p"
        said = answer.json()["choices"][0]["message"]
        assert re.fullmatch(r"It is \d+ \[1\]\.", said["content"])
        assert "secret thoughts" in said["reasoning_content"]
        conversation.append({"role": "assistant", **form(said)})
    asked = [each.body for each in platform.upstream.asked[first:]]
    assert len(asked) == 3, "no side calls: rewriting, titles and the like never reach the thinking model"
    for body in asked:
        assert (body["temperature"], body["top_p"]) == (0.6, 0.95)
        assert "presence_penalty" not in body
        assert {message["role"] for message in body["messages"]} <= {"user", "assistant"}
        assert "secret thoughts" not in json.dumps(body)
        assert not {"think", "reasoning"} & {key for message in body["messages"] for key in message}
        assert "Be brief." in body["messages"][0]["content"]
        assert "[webpage 1 begin]" in body["messages"][-1]["content"]
    assert [m["role"] for m in asked[2]["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert asked[2]["messages"][1]["content"].startswith("It is ")
    assert asked[2]["messages"][-1]["content"].rstrip().endswith("Since when?")


@pytest.mark.parametrize(
    "wish",
    [{"reasoning_effort": "none"}, {"enable_thinking": False}, {"think": False}, {"model": f"{KB}:nothink"}],
)
def test_a_server_that_cannot_skip_thinking_says_so(platform: Platform, http: httpx.Client, wish: dict) -> None:
    body = {"model": KB, "messages": [{"role": "user", "content": "How many days of leave?"}], **wish}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert "cannot make this model skip its thinking" in answer["warnings"][0]
    assert answer["choices"][0]["message"]["content"].startswith("It is ")


def test_a_stop_and_free_sampling_reach_the_model(platform: Platform, http: httpx.Client) -> None:
    body = {"model": KB, "messages": [{"role": "user", "content": "How many?"}], "stop": [" is"], "temperature": 0.2}
    answer = http.post("/v1/chat/completions", json={**body, "free_sampling": True})
    assert "x-ignored-params" not in answer.headers
    assert answer.json()["choices"][0]["message"]["content"] == "It"
    assert platform.upstream.asked[-1].body["temperature"] == 0.2


def test_the_newer_api_names_what_has_no_effect_too(platform: Platform, http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"model": KB, "input": "How many days?", "temperature": 0})
    assert answer.headers["x-ignored-params"] == "temperature"
    assert platform.upstream.asked[-1].body["temperature"] == 0.6


# --- clients that leave ---------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def leave(self) -> None:
        """Be gone at once."""
        self.writer.transport.abort()


async def ask(
    platform: Platform,
    words: str,
    model: str = KB,
    read: int = 0,
    path: str = "/v1/chat/completions",
    stream: bool = True,
) -> Client:
    """Send a question; wait for at least `read` bytes of the answer."""
    address = urlsplit(platform.running.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=65536)
    turns = [{"role": "user", "content": words}]
    body = json.dumps({"model": model, "stream": stream, "messages": turns, "input": turns}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {platform.running.key}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    if read:
        await asyncio.wait_for(reader.readexactly(read), 120)
    return Client(reader, writer)


async def until(condition: object, seconds: float) -> float:
    """Seconds until a condition held; fails after `seconds`."""
    began = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize(("words", "read"), [("ENDLESS leave?", 600), ("QUEUE leave?", 0)])
async def test_the_model_server_is_let_go_at_once(platform: Platform, words: str, read: int) -> None:
    """While it thinks, and while it lets us wait."""
    before = len(platform.upstream.asked)
    client = await ask(platform, words, read=read)
    await until(lambda: len(platform.upstream.asked) > before, 60)
    asked = platform.upstream.asked[-1]
    await asyncio.sleep(0.1)
    assert asked.closed is None
    left = time.monotonic()
    client.leave()
    await until(lambda: asked.closed is not None, 60)
    assert (asked.closed or 0) - left < 30


@pytest.mark.parametrize("words", ["ENDLESS leave?", "QUEUE leave?"])
@pytest.mark.parametrize(
    ("path", "stream"),
    [("/v1/chat/completions", False), ("/v1/responses", True), ("/v1/responses", False), ("/api/chat", True),
     ("/api/chat", False)],
)  # fmt: skip
async def test_it_is_let_go_whatever_the_protocol(platform: Platform, path: str, stream: bool, words: str) -> None:
    before = len(platform.upstream.asked)
    client = await ask(platform, words, path=path, stream=stream)
    await until(lambda: len(platform.upstream.asked) > before, 10)
    asked = platform.upstream.asked[-1]
    await asyncio.sleep(0.1)
    assert asked.closed is None
    left = time.monotonic()
    client.leave()
    await until(lambda: asked.closed is not None, 10)
    print(f"{path}, {words}: let go after {(asked.closed or 0) - left:.3f} s")


async def test_leaving_at_any_moment_leaves_nothing_behind(platform: Platform) -> None:
    """Forty clients that leave 0 to 80 ms after asking: during the search, before or after the model is asked."""
    chance = random.Random(3)
    first = len(platform.upstream.asked)
    for _ in range(40):
        client = await ask(platform, chance.choice(["ENDLESS leave?", "QUEUE leave?"]))
        await asyncio.sleep(chance.uniform(0, 0.08))
        client.leave()
    await until(lambda: not platform.upstream.open(), 60)
    await asyncio.sleep(0.3)
    assert not platform.upstream.open(), "a search that went on asked the model for nobody"
    assert len(platform.upstream.asked) - first <= 40


async def test_a_client_that_does_not_read_holds_the_model_server_back(platform: Platform) -> None:
    service = platform.service()
    resident = service.memory_info().rss
    before = len(platform.upstream.asked)
    client = await ask(platform, "FLOOD", model=MODEL)
    await until(lambda: len(platform.upstream.asked) > before, 60)
    asked = platform.upstream.asked[-1]
    await asyncio.sleep(1.5)
    at, grown = asked.sent, service.memory_info().rss - resident
    await asyncio.sleep(1.0)
    print(f"held back after {at / 1e6:.1f} MB; the service grew by {grown / 1e6:.1f} MB")
    assert asked.sent == at, "it goes on sending although nobody reads"
    assert at < 32e6 and grown < 64e6
    for _ in range(at // 65536 + 16):
        await client.reader.readexactly(65536)
    await until(lambda: asked.sent > at, 60)  # it goes on when the client does
    client.leave()
    await until(lambda: asked.closed is not None, 60)


@pytest.mark.slow
async def test_five_hundred_streams_are_held_in_bounded_memory(platform: Platform) -> None:
    service = platform.service()
    clients = [await ask(platform, "ENDLESS", model=MODEL, read=200) for _ in range(20)]
    resident = service.memory_info().rss
    for _ in range(24):
        clients += await asyncio.gather(*(ask(platform, "ENDLESS", model=MODEL, read=200) for _ in range(20)))
    assert len(platform.upstream.open()) == 500
    await asyncio.sleep(3)
    grown = service.memory_info().rss - resident
    print(f"500 streams: {grown / 480 / 1024:.0f} KiB each, {grown / 1e6:.0f} MB in all")
    assert grown / 480 < 256 * 1024
    left = time.monotonic()
    for client in clients:
        client.leave()
    took = await until(lambda: not platform.upstream.open(), 60)
    print(f"all let go {took:.2f} s after {time.monotonic() - left - took:.2f} s of leaving")


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_requests_that_are_broken_off_leak_nothing(platform: Platform) -> None:
    service, chance = platform.service(), random.Random(1)

    async def broken_off() -> None:
        client = await ask(platform, chance.choice(["ENDLESS", "QUEUE", "leave?"]), model=chance.choice([MODEL, KB]))
        await asyncio.sleep(chance.uniform(0, 0.05))
        client.leave()

    async def many(count: int) -> None:
        for _ in range(count // 20):
            await asyncio.gather(*(broken_off() for _ in range(20)))
        await until(lambda: not platform.upstream.open(), 60)
        await asyncio.sleep(1)

    await many(1000)
    resident, files, threads = service.memory_info().rss, service.num_fds(), service.num_threads()
    await many(10_000)
    grown = service.memory_info().rss - resident
    print(f"10,000 broken off: {grown / 10_000:.0f} bytes each; files {files} -> {service.num_fds()}")
    assert grown < 20e6
    assert service.num_fds() <= files + 10
    assert service.num_threads() <= threads + 8  # pools fill up to their size
    with contextlib.suppress(psutil.AccessDenied):
        assert len(service.net_connections()) < 80


def test_the_log_has_no_traceback(platform: Platform) -> None:
    """Last: whatever happened above is nobody's bug."""
    for log in (platform.running.data_dir / "logs").glob("*.log*"):
        assert "Traceback" not in Path(log).read_text(errors="replace"), log
