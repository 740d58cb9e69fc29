"""`POST /v1/completions`."""

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from connectors.apps.openai_completions import TextCompletion, parse_completion
from pipelines.errors import NotFound, TooLarge
from pipelines.events import Lookahead
from pipelines.language import detect
from pipelines.types import Message
from services.answering import client_events, resolve
from services.api.chat import ignored_header, read_body
from services.api.deps import Parts
from services.api.document import MODEL, STREAM, count, takes, texts
from services.auth import Answerer
from services.delivery import addresses_for, deliver, delivery_of
from services.disconnect import until_gone
from services.errors import responses
from services.streamed import PATIENCE, STREAM_HEADERS
from services.waiting import json_answer

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/completions",
    responses=responses(NotFound, TooLarge),
    openapi_extra=takes({"model": MODEL, "prompt": texts()}, {"stream": STREAM, "max_tokens": count()}),
)
async def create_completion(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a prompt, or several one after the other, each by itself. Thinking is left out: the form has no place."""
    wanted = parse_completion(await read_body(request))
    target = await resolve(deepwell, caller, wanted.model)
    options = wanted.how
    delivery = delivery_of(request, {})
    answers = []
    for prompt in wanted.prompts:
        question = (Message(role="user", content=prompt),)
        found = await client_events(deepwell, caller, question, target, max_tokens=wanted.max_tokens, options=options)
        answers.append(deliver(found, delivery, addresses_for(request, delivery), detect(prompt)))
    ahead = [Lookahead(events) for events in answers]
    completion = TextCompletion(wanted)
    headers = ignored_header(deepwell, wanted.extra, takes_tools=False)

    async def close() -> None:
        for events in ahead:
            await events.close()

    if wanted.stream:
        await until_gone(request, ahead[0].prime(PATIENCE), close)
        return StreamingResponse(
            completion.stream(ahead), media_type="text/event-stream", headers=headers | STREAM_HEADERS
        )
    return await json_answer(request, completion.body(answers), close, headers)
