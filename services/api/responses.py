"""`POST /v1/responses`."""

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from connectors.apps.openai_responses import ResponseWriter, parse_responses
from connectors.asking import options_of
from pipelines.errors import NotFound, TooLarge
from pipelines.events import Lookahead
from services.answering import client_events, language_of, resolve
from services.api.chat import ignored_header, read_body
from services.api.deps import Parts
from services.api.document import MODEL, STREAM, count, messages, some, takes, text
from services.auth import Answerer
from services.delivery import addresses_for, deliver, delivery_of
from services.disconnect import until_gone
from services.errors import responses
from services.streamed import PATIENCE, STREAM_HEADERS
from services.waiting import json_answer

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/responses",
    responses=responses(NotFound, TooLarge),
    openapi_extra=takes(
        {"model": MODEL, "input": {"anyOf": [text(), messages()]}},
        {"instructions": text(), "stream": STREAM, "max_output_tokens": count(), "reasoning": some("`effort`")},
    ),
)
async def create_response(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a conversation in the shape of OpenAI's newer API. Nothing is stored."""
    wanted = parse_responses(await read_body(request))
    target = await resolve(deepwell, caller, wanted.model)
    delivery = delivery_of(request, wanted.raw)
    addresses = addresses_for(request, delivery)
    writer = ResponseWriter(wanted, addresses.urls)
    options = options_of(wanted.raw)
    found = await client_events(
        deepwell, caller, wanted.messages, target, max_tokens=wanted.max_tokens, options=options
    )
    events = deliver(found, delivery, addresses, language_of(wanted.messages))
    ahead = Lookahead(events)
    headers = ignored_header(deepwell, wanted.raw)
    if wanted.stream:
        await until_gone(request, ahead.prime(PATIENCE), ahead.close)
        headers |= STREAM_HEADERS
        return StreamingResponse(writer.stream(ahead), media_type="text/event-stream", headers=headers)
    return await json_answer(request, writer.body(events), ahead.close, headers)
