"""A question and its cited answer, in our own shape."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import Response, StreamingResponse

from pipelines.errors import NotFound, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.types import Event, Finish, Message, Reasoning, Sources, Text
from services.answering import answer_events
from services.api.chat import PATIENCE, STREAM_HEADERS
from services.api.deps import Parts
from services.api.schemas import Answer, AskCitation, AskRequest, SearchHit
from services.auth import Answerer
from services.disconnect import until_gone
from services.errors import error_body, responses
from services.waiting import json_answer

router = APIRouter(tags=["ask"])


@router.post("/v1/ask", response_model=Answer, responses=responses(NotFound))
async def ask(request: Request, body: AskRequest, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a question from the documents. With `stream`: events sources, reasoning, text, finish."""
    bases = await deepwell.knowledge_base_ids(caller, body.knowledge_bases)
    question = (Message(role="user", content=body.question),)
    events = await answer_events(deepwell, caller, question, bases, top_k=body.top_k)
    model = deepwell.chat.id
    ahead = Lookahead(events)
    if body.stream:
        await until_gone(request, ahead.prime(PATIENCE), ahead.close)
        return StreamingResponse(_frames(ahead, model), media_type="text/event-stream", headers=STREAM_HEADERS)

    async def whole() -> dict[str, Any]:
        return (await collect(events, model)).model_dump()

    return await json_answer(request, whole(), ahead.close)


async def collect(events: AsyncIterator[Event], model: str) -> Answer:
    """The whole answer, once it is there. Raises what the events raise."""
    text: list[str] = []
    reasoning: list[str] = []
    finish = Finish()
    async for event in events:
        if isinstance(event, Text):
            text.append(event.text)
        elif isinstance(event, Reasoning):
            reasoning.append(event.text)
        elif isinstance(event, Finish):
            finish = event
    return Answer(
        answer="".join(text),
        reasoning="".join(reasoning),
        citations=[AskCitation.of(citation) for citation in finish.citations],
        abstained=finish.abstained,
        model=model,
        warnings=list(finish.warnings),
        timings=dict(finish.timings),
    )


async def _frames(events: Lookahead, model: str) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(with_silence(events, 12.0)) as watched:
            async for event in watched:
                yield b": keep-alive\n\n" if event is None else b"data: " + orjson.dumps(_event(event, model)) + b"\n\n"
    except RagError as error:
        yield b"data: " + orjson.dumps(error_body(error)) + b"\n\n"


def _event(event: Event, model: str) -> dict[str, Any]:
    if isinstance(event, Sources):
        return {"type": "sources", "hits": [SearchHit.of(hit).model_dump() for hit in event.hits]}
    if isinstance(event, Finish):
        return {
            "type": "finish",
            "reason": event.reason,
            "citations": [AskCitation.of(citation).model_dump() for citation in event.citations],
            "abstained": event.abstained,
            "model": model,
            "warnings": list(event.warnings),
            "timings": dict(event.timings),
            "usage": jsonable_encoder(event.usage),
        }
    return {"type": "reasoning" if isinstance(event, Reasoning) else "text", "text": event.text}
