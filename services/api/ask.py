"""A question and its cited answer, in our own shape."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import Response, StreamingResponse

from pipelines.errors import NotFound, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.language import detect
from pipelines.types import Event, Finish, Message, Reasoning, Sources, Text, ToolCallPiece
from services.answering import answer_events
from services.api.deps import Parts
from services.api.schemas import Answer, AskCitation, AskRequest, SearchHit
from services.auth import Answerer
from services.delivery import Delivery, addresses_for, deliver
from services.disconnect import until_gone
from services.errors import error_body, responses
from services.streamed import PATIENCE, STREAM_HEADERS
from services.waiting import json_answer

router = APIRouter(tags=["ask"])
KEEP_ALIVE = b": keep-alive\n\n"


@router.post("/v1/ask", response_model=Answer, responses=responses(NotFound))
async def ask(request: Request, body: AskRequest, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a question from the documents. With `stream`: events sources, reasoning, text, finish."""
    bases = await deepwell.knowledge_base_ids(caller, body.knowledge_bases)
    question = (Message(role="user", content=body.question),)
    found = await answer_events(deepwell, caller, question, bases, top_k=body.top_k)
    addresses = addresses_for(request)
    events = deliver(found, Delivery(), addresses, detect(body.question))
    shown = Shown(deepwell.chat.id, addresses.urls)
    ahead = Lookahead(events)
    if body.stream:
        await until_gone(request, ahead.prime(PATIENCE), ahead.close)
        return StreamingResponse(shown.frames(ahead), media_type="text/event-stream", headers=STREAM_HEADERS)

    async def whole() -> dict[str, Any]:
        return (await shown.collect(events)).model_dump()

    return await json_answer(request, whole(), ahead.close)


class Shown:
    """An answer in our own shape."""

    def __init__(self, model: str, urls: Mapping[str, str]) -> None:
        self.model = model
        #: address of each passage, filled before the event that names it comes
        self.urls = urls

    async def collect(self, events: AsyncIterator[Event]) -> Answer:
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
            citations=self._citations(finish),
            abstained=finish.abstained,
            model=self.model,
            warnings=list(finish.warnings),
            timings=dict(finish.timings),
        )

    async def frames(self, events: Lookahead) -> AsyncIterator[bytes]:
        """Every frame of a streamed answer, keep-alives included. An error after the start is one error frame."""
        try:
            async with contextlib.aclosing(with_silence(events, 12.0)) as watched:
                async for event in watched:
                    yield KEEP_ALIVE if event is None else b"data: " + orjson.dumps(self._event(event)) + b"\n\n"
        except RagError as error:
            yield b"data: " + orjson.dumps(error_body(error)) + b"\n\n"

    def _citations(self, finish: Finish) -> list[AskCitation]:
        return [AskCitation.of(citation, self.urls.get(citation.chunk_id, "")) for citation in finish.citations]

    def _event(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Sources):
            hits = [SearchHit.of(hit, self.urls.get(hit.chunk.id, "")) for hit in event.hits]
            return {"type": "sources", "hits": [hit.model_dump() for hit in hits]}
        if isinstance(event, Finish):
            return {
                "type": "finish",
                "reason": event.reason,
                "citations": [citation.model_dump() for citation in self._citations(event)],
                "abstained": event.abstained,
                "model": self.model,
                "warnings": list(event.warnings),
                "timings": dict(event.timings),
                "usage": jsonable_encoder(event.usage),
            }
        assert not isinstance(event, ToolCallPiece), "no tools were offered"
        return {"type": "reasoning" if isinstance(event, Reasoning) else "text", "text": event.text}
