"""Ollama's API, the part clients really use. Errors are {"error": "…"}."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from connectors.apps import ollama
from connectors.bodies import dumps, json_object, shortened, text_list, whole
from connectors.chat_model import ServedChat
from pipelines.errors import NotFound, TooLarge
from pipelines.events import Lookahead
from pipelines.types import Caller
from services import computing
from services.answering import client_events, language_of, model_ids, resolve
from services.api.chat import ignored_header, read_body
from services.api.deps import Parts
from services.api.document import EMBEDDER, STREAM, count, flag, messages, some, takes, text, texts, tools
from services.auth import Answerer, Chatter, Computer
from services.build import Deepwell
from services.delivery import addresses_for, deliver, delivery_of
from services.disconnect import until_gone
from services.errors import foreign
from services.streamed import PATIENCE, STREAM_HEADERS
from services.waiting import json_answer

router = APIRouter(tags=["ollama"])
NDJSON = "application/x-ndjson"
ERRORS = foreign({"error": "…"}, NotFound, TooLarge)
NAME = text("A name of `GET /api/tags`; `:latest` may be left out.")
OPTIONS = {
    "stream": flag("False: one JSON object at the end."),
    "think": flag("False: no thinking."),
    "options": some("`num_predict`, `temperature`, `top_p`, `seed`, `stop`."),
}
#: seconds since 1970 at which a model was "modified": the choice of the model has no date that matters to a client
MODIFIED = 1735689600.0


@router.api_route("/", methods=["GET", "HEAD"], response_class=PlainTextResponse, include_in_schema=False)
async def ollama_root() -> str:
    """What Ollama says here; clients take it as a sign of life."""
    return "Ollama is running"


@router.get("/api/version", responses=ERRORS)
async def ollama_version(caller: Chatter) -> dict[str, str]:
    """The release whose protocol is spoken. It needs a key, so that a wrong one is seen at once."""
    return {"version": ollama.VERSION}


@router.get("/api/tags", responses=ERRORS)
async def ollama_tags(caller: Chatter, deepwell: Parts) -> dict[str, Any]:
    """The models: the plain one, one for each knowledge base, and the same with `:nothink`."""
    return {"models": [model.tag() for model in await models(deepwell, caller)]}


@router.head("/api/tags", include_in_schema=False)
async def ollama_tags_head(caller: Chatter) -> Response:
    """Whether there are models; some clients ask only that."""
    return Response(media_type="application/json")


@router.get("/api/ps", responses=ERRORS)
async def ollama_ps(caller: Chatter, deepwell: Parts) -> dict[str, Any]:
    """The models that are loaded: all of them, always."""
    return {"models": [model.running() for model in await models(deepwell, caller)]}


@router.post("/api/show", responses=ERRORS, openapi_extra=takes({"model": NAME}))
async def ollama_show(request: Request, caller: Chatter, deepwell: Parts) -> dict[str, Any]:
    """What one model is and can."""
    name = ollama.model_name(json_object(await read_body(request), "`model`"))
    if computing.is_embedding(deepwell, name):
        return embedder(deepwell, name).show()
    await resolve(deepwell, caller, name)
    return model(deepwell, name).show()


@router.post("/api/pull", responses=ERRORS, openapi_extra=takes({"model": NAME}, {"stream": STREAM}))
async def ollama_pull(request: Request, caller: Chatter, deepwell: Parts) -> Response:
    """Success if the model is there. Nothing is downloaded: `deepwell models pull` does that."""
    data = json_object(await read_body(request), "`model`")
    await resolve(deepwell, caller, ollama.model_name(data))
    if data.get("stream") is False:
        return Response(dumps({"status": "success"}), media_type="application/json")
    lines = b"".join(dumps({"status": status}) + b"\n" for status in ("pulling manifest", "success"))
    return Response(lines, media_type=NDJSON)


@router.post(
    "/api/chat",
    responses=ERRORS,
    openapi_extra=takes({"model": NAME, "messages": messages()}, OPTIONS | {"tools": tools()}),
)
async def ollama_chat(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a conversation, in lines of JSON unless `stream` is false."""
    return await respond(request, caller, deepwell, ollama.parse_chat(await read_body(request)))


@router.post("/api/generate", responses=ERRORS, openapi_extra=takes({"model": NAME, "prompt": text()}, OPTIONS))
async def ollama_generate(request: Request, caller: Answerer, deepwell: Parts) -> Response:
    """Answer a prompt, in lines of JSON unless `stream` is false."""
    return await respond(request, caller, deepwell, ollama.parse_generate(await read_body(request)))


@router.post(
    "/api/embed",
    responses=ERRORS,
    openapi_extra=takes({"model": EMBEDDER, "input": texts()}, {"dimensions": count()}),
)
async def ollama_embed(request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Vectors of one text or several."""
    data = json_object(await read_body(request), "`model` and `input`")
    named = ollama.model_name(data)
    computing.check_embedding(deepwell, named)
    answer = ollama.Answer(ollama.OllamaRequest(kind="chat", model=named, messages=()))
    vectors, tokens = await computing.embed(deepwell, text_list(data.get("input"), "input"))
    counts = answer.last(None)
    body = {
        "model": named,
        "embeddings": shortened(vectors, whole(data.get("dimensions"))),
        "total_duration": counts["total_duration"],
        "load_duration": 0,
        "prompt_eval_count": sum(tokens),
    }
    return Response(dumps(body), media_type="application/json")


@router.post("/api/embeddings", responses=ERRORS, openapi_extra=takes({"model": EMBEDDER, "prompt": text()}))
async def ollama_embeddings(request: Request, caller: Computer, deepwell: Parts) -> Response:
    """The vector of one text, in the older form."""
    data = json_object(await read_body(request), "`model` and `prompt`")
    computing.check_embedding(deepwell, ollama.model_name(data))
    vectors, _ = await computing.embed(deepwell, text_list(data.get("prompt"), "prompt")[:1])
    return Response(dumps({"embedding": vectors[0]}), media_type="application/json")


async def respond(request: Request, caller: Caller, deepwell: Deepwell, wanted: ollama.OllamaRequest) -> Response:
    """The answer to a chat or a prompt. What the model server refuses at once is a proper status."""
    target = await resolve(deepwell, caller, wanted.model)
    answer = ollama.Answer(wanted)
    if not wanted.messages:
        chat = deepwell.chat.model
        if isinstance(chat, ServedChat):
            await chat.load(wanted.how.keep_alive)
        return loaded(answer)
    found = await client_events(
        deepwell, caller, wanted.messages, target, max_tokens=wanted.max_tokens, options=wanted.how
    )
    delivery = delivery_of(request, {})
    events = deliver(found, delivery, addresses_for(request, delivery), language_of(wanted.messages))
    ahead = Lookahead(events)
    headers = ignored_header(deepwell, wanted.extra, takes_tools=wanted.kind == "chat")
    if wanted.stream:
        await until_gone(request, ahead.prime(PATIENCE), ahead.close)
        return StreamingResponse(answer.stream(ahead), media_type=NDJSON, headers=headers | STREAM_HEADERS)
    return await json_answer(request, answer.body(events), ahead.close, headers)


def loaded(answer: ollama.Answer) -> Response:
    """The answer to a request without a question."""
    line = dumps(answer.loaded())
    return Response(line + b"\n", media_type=NDJSON if answer.request.stream else "application/json")


async def models(deepwell: Deepwell, caller: Caller) -> list[ollama.OllamaModel]:
    """The models the caller may use."""
    return [model(deepwell, name) for name, _ in await model_ids(deepwell, caller)]


def model(deepwell: Deepwell, name: str) -> ollama.OllamaModel:
    """One model as Ollama shows it."""
    profile = deepwell.chat.profile
    return ollama.OllamaModel(
        id=name,
        architecture=profile.name,
        size=0,
        parameters="",
        quantization="",
        context=deepwell.settings.chat.context,
        modified=MODIFIED,
        thinks=profile.thinks != "never",
        tools=profile.tools != "none",
    )


def embedder(deepwell: Deepwell, name: str) -> ollama.OllamaModel:
    """The embedding model as Ollama shows one."""
    identity = deepwell.embeddings.identity
    return ollama.OllamaModel(
        id=name,
        architecture="bert",
        size=0,
        parameters="",
        quantization="",
        context=identity.max_tokens,
        modified=MODIFIED,
        thinks=False,
        embeds=identity.dimension,
    )
