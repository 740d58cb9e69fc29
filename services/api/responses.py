"""`/v1/responses`."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from connectors.apps.openai_responses import ResponseWriter, parse_responses
from pipelines.errors import NotFound, TooLarge
from pipelines.events import Lookahead
from services.answering import client_events, language_of, resolve
from services.api.chat import ignored_header, read_body
from services.api.deps import Parts
from services.api.document import MODEL, STREAM, count, flag, messages, some, takes, text, tools
from services.auth import Answerer, Chatter
from services.delivery import addresses_for, deliver, delivery_of
from services.disconnect import until_gone
from services.errors import responses
from services.stored_responses import StoredResponses
from services.streamed import PATIENCE, STREAM_HEADERS
from services.waiting import json_answer

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/responses",
    responses=responses(NotFound, TooLarge),
    openapi_extra=takes(
        {"model": MODEL, "input": {"anyOf": [text(), messages()]}},
        {
            "instructions": text(),
            "previous_response_id": text("Goes on from a response of the last hour."),
            "store": flag("False: the response is not kept."),
            "stream": STREAM,
            "max_output_tokens": count(),
            "reasoning": some("`effort`"),
            "tools": tools(),
        },
    ),
)
async def create_response(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a conversation in the shape of OpenAI's newer API; see services.stored_responses for what is kept."""
    stored: StoredResponses = request.app.state.responses
    key = caller.key_id
    body = await read_body(request)
    wanted = (
        parse_responses(body, partial(stored.conversation, key), partial(stored.item, key))
        if stored.keeps
        else parse_responses(body)
    )
    target = await resolve(deepwell, caller, wanted.model)
    delivery = delivery_of(request, wanted.raw)
    addresses = addresses_for(request, delivery)
    writer = ResponseWriter(wanted, addresses.urls, partial(stored.keep, key) if stored.keeps else None)
    found = await client_events(
        deepwell, caller, wanted.messages, target, max_tokens=wanted.max_tokens, options=wanted.how
    )
    events = deliver(found, delivery, addresses, language_of(wanted.messages))
    ahead = Lookahead(events)
    headers = ignored_header(deepwell, wanted.raw)
    if wanted.stream:
        await until_gone(request, ahead.prime(PATIENCE), ahead.close)
        headers |= STREAM_HEADERS
        return StreamingResponse(writer.stream(ahead), media_type="text/event-stream", headers=headers)
    return await json_answer(request, writer.body(events), ahead.close, headers)


@router.get("/v1/responses/{response}", responses=responses(NotFound))
async def get_response(request: Request, response: str, caller: Chatter) -> dict[str, Any]:
    """A response of the last hour, made with the same key."""
    stored: StoredResponses = request.app.state.responses
    return stored.get(caller.key_id, response)


@router.delete("/v1/responses/{response}", responses=responses(NotFound))
async def delete_response(request: Request, response: str, caller: Chatter) -> dict[str, Any]:
    """Forget a response."""
    stored: StoredResponses = request.app.state.responses
    stored.delete(caller.key_id, response)
    return {"id": response, "object": "response", "deleted": True}


@router.get("/v1/responses/{response}/input_items", responses=responses(NotFound))
async def list_input_items(request: Request, response: str, caller: Chatter) -> dict[str, Any]:
    """The items that a response answers."""
    stored: StoredResponses = request.app.state.responses
    items = stored.input_items(caller.key_id, response)
    return {"object": "list", "data": items, "first_id": None, "last_id": None, "has_more": False}
