"""A streamed chat completion without a platform around it: a scripted model server, a small Rag, frames collected."""

import asyncio
import re
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connectors.apps.openai import Completion, parse_chat
from connectors.models.openai import chat as openai_chat
from pipelines.answer import answer
from pipelines.language import detect
from pipelines.profiles import Profile, profile_for
from pipelines.types import Event
from services.streamed import StreamedCompletion
from tests.unit.small_rag import ASKER, small_rag

R1 = profile_for("deepseek-r1:7b")
Message = MutableMapping[str, Any]


class NoRelay(StreamedCompletion):
    """The same answer by way of events."""

    async def relay(self, generation: Any) -> bool:
        return False


@dataclass
class Client:
    """Who asks: collects what is sent, reads slowly or leaves if told to."""

    sent: list[Message] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    #: cleared: `send` waits
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reads.set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)

    @property
    def frames(self) -> list[Any]:
        """Every frame, with what differs from answer to answer made alike; comments as they are."""
        plain = re.sub(rb'"(id|created)":("chatcmpl-[0-9a-f]+"|\d{9,})', rb'"\1":0', self.body)
        blocks = plain.split(b"\n\n")
        assert blocks.pop() == b""
        return [orjson.loads(b[6:]) if b.startswith(b"data: {") else b for b in blocks]

    def text(self, name: str) -> str:
        deltas = [f["choices"][0]["delta"] for f in self.frames if isinstance(f, dict) and f.get("choices")]
        return "".join(delta.get(name) or "" for delta in deltas)

    @property
    def last(self) -> Any:
        """The frame with the finish reason."""
        return next(
            f for f in self.frames if isinstance(f, dict) and (f.get("choices") or [{}])[0].get("finish_reason")
        )


async def ask(
    url: str,
    body: dict[str, Any],
    *,
    relayed: bool = True,
    passages: Sequence[str] = (),
    profile: Profile = R1,
    client: Client | None = None,
    form: Any = "reasoning_content",
) -> Client:
    """Send a chat completion through services.streamed to the model server at `url`. Raises what it raises."""
    client = client or Client()
    wanted = parse_chat(orjson.dumps({"model": "m", "stream": True, **body}))
    rag = replace(await small_rag(None, *passages), chat=openai_chat(url, "deepseek-r1:7b", profile=profile, timeout=5))  # type: ignore[arg-type]
    urls = {f"c{n}": f"http://x/{n}" for n in range(1, len(passages) + 1)}
    question = wanted.messages[-1].content
    completion = Completion(wanted, urls, form=form, source_events="cards" in body, language=detect(question))
    streamed = (StreamedCompletion if relayed else NoRelay)(completion, {})
    events: AsyncGenerator[Event] = answer(
        rag,
        ASKER,
        wanted.messages,
        ["kb"] if passages else [],
        profile=profile,
        max_tokens=wanted.max_tokens or 4096,
        options=replace(wanted.how, relay=streamed.relay),
    )
    streamed.events, streamed.delivered = events, lambda event: (event,)
    await streamed({"type": "http"}, client.receive, client.send)
    return client
