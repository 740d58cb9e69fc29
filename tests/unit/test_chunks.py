"""Message chunks made without validation are those that validation makes; nobody who listens is left out."""

from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessageChunk

from connectors.chunks import message_chunk
from connectors.models.openai import chat
from pipelines.delta import Delta
from pipelines.profiles import profile_for
from tests.unit.scripted_server import delta, reply, scripted, sse

ANSWER = sse(delta(reasoning_content="Hm."), delta(content="Yes"), delta(content=" it is"), delta("stop"))


@pytest.mark.parametrize("text", ["", "a", "日本"])
def test_a_chunk_is_what_validation_makes(text: str) -> None:
    made, checked = message_chunk(Delta(content=text), "m", "p", "id"), AIMessageChunk(content=text, id="id")
    assert made == checked
    assert made.model_dump() == checked.model_dump()
    assert (made + made).content == text * 2
    assert made.model_copy(deep=True) == checked
    assert AIMessageChunk.model_validate(made.model_dump()) == checked


def test_chunks_share_nothing() -> None:
    one, other = message_chunk(Delta(content="a"), "m", "p"), message_chunk(Delta(content="b"), "m", "p")
    one.additional_kwargs["x"] = one.response_metadata["x"] = 1
    one.tool_calls.append({"name": "f", "args": {}, "id": "1"})
    assert not other.additional_kwargs and not other.response_metadata and not other.tool_calls


class Listener(AsyncCallbackHandler):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.ended = 0

    async def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    async def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.ended += 1


async def test_the_same_chunks_whether_somebody_listens_or_not() -> None:
    async with scripted(reply(ANSWER)) as seen:
        model = chat(seen.url, "m", profile=profile_for("", "plain"))
        alone = [chunk async for chunk in model.astream("Hi")]
        listener = Listener()
        watched = [chunk async for chunk in model.astream("Hi", config={"callbacks": [listener]})]
    assert listener.ended == 1 and "".join(listener.tokens) == "Yes it is"

    def plain(chunks: list[Any]) -> list[Any]:
        return [(c.content, c.additional_kwargs, c.response_metadata, c.chunk_position) for c in chunks]

    assert plain(alone) == plain(watched)
    assert len({chunk.id for chunk in alone}) == 1 and (alone[0].id or "").startswith("lc_run--")
