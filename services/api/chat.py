"""The OpenAI surface: models and chat completions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from connectors.apps.openai import Completion, parse_chat
from connectors.bodies import ignored
from pipelines.errors import NotFound, TooLarge
from pipelines.events import Lookahead
from pipelines.thinking import NOTHINK
from services.answering import client_events, language_of, model_ids, resolve
from services.api import xinference
from services.api.deps import Parts
from services.api.document import MODEL, STREAM, count, messages, takes, text, tools
from services.auth import Answerer, Chatter, Computer
from services.build import Deepwell
from services.delivery import addresses_for, deliver, delivered, delivery_of
from services.disconnect import ClientGone
from services.errors import responses
from services.streamed import StreamedCompletion
from services.waiting import json_answer

router = APIRouter(tags=["chat"])
LARGEST_BODY = 32 << 20


@router.get("/v1/models", responses=responses())
async def list_models(caller: Chatter, deepwell: Parts) -> dict[str, Any]:
    """The plain model, one for each knowledge base the key may use, and the same with `:nothink`."""
    return {"object": "list", "data": [card(deepwell, *each) for each in await model_ids(deepwell, caller)]}


@router.get("/v1/models/{model}", responses=responses(NotFound))
async def get_model(model: str, caller: Computer, deepwell: Parts) -> dict[str, Any]:
    """One model by its id, with what Xinference's clients look for; the embedding model and the reranker, too."""
    if other := xinference.computing_card(deepwell, model):
        return other
    await resolve(deepwell, caller, model)
    return card(deepwell, model) | xinference.chat_fields(deepwell, model)


def card(deepwell: Deepwell, model: str, knowledge_base: str = "") -> dict[str, Any]:
    """A model as clients list it. A stand-in says that it is one."""
    chat = deepwell.chat
    name = f"{chat.profile.title} over {knowledge_base}" if knowledge_base else chat.profile.title
    if model.endswith(NOTHINK):
        name += ", without thinking"
    return {
        "id": model,
        "object": "model",
        "created": 1735689600,
        "owned_by": "deepwell",
        "name": name,
        "context_length": deepwell.settings.chat.context,
        "architecture": {"input_modalities": ["text"]},
    }


@router.post(
    "/v1/chat/completions",
    responses=responses(NotFound, TooLarge),
    openapi_extra=takes(
        {"model": MODEL, "messages": messages()},
        {
            "stream": STREAM,
            "max_tokens": count("Thinking included."),
            "reasoning_effort": text("none: no thinking"),
            "tools": tools(),
        },
    ),
)
async def create_chat_completion(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a conversation; with the id of a knowledge base's model, from its documents, with citations."""
    wanted = parse_chat(await read_body(request))
    target = await resolve(deepwell, caller, wanted.model)
    delivery, language = delivery_of(request, wanted.extra), language_of(wanted.messages)
    addresses = addresses_for(request, delivery)
    completion = Completion(
        wanted,
        addresses.urls,
        form=delivery.reasoning,
        source_events=delivery.source_events and bool(target),
        language=language,
    )
    headers = ignored_header(deepwell, wanted.extra)
    streamed = StreamedCompletion(completion, headers) if wanted.stream else None
    if streamed is not None:
        wanted.how.relay = streamed.relay
    found = await client_events(
        deepwell, caller, wanted.messages, target, max_tokens=wanted.max_tokens, options=wanted.how
    )
    if streamed is not None:
        streamed.events, streamed.delivered = found, partial(delivered, delivery, addresses, language)
        return streamed
    events = deliver(found, delivery, addresses, language)
    return await json_answer(request, completion.body(events), Lookahead(events).close, headers)


def ignored_header(deepwell: Deepwell, data: Mapping[str, Any], takes_tools: bool = True) -> dict[str, str]:
    """The header that names parameters without effect, if there are any."""
    chat = deepwell.chat
    names = ignored(data, chat.profile.guards_sampling, chat.effective(takes_tools))
    return {"X-Ignored-Params": ", ".join(names)} if names else {}


async def read_body(request: Request) -> bytes:
    """The body, refused as soon as it is too large. Raises TooLarge."""
    body = bytearray()
    try:
        async for block in request.stream():
            body += block
            if len(body) > LARGEST_BODY:
                raise TooLarge(f"the body is larger than {LARGEST_BODY >> 20} MiB")
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)
