"""The one verb behind every client's protocol: a model id and a conversation become a stream of answer events."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from pipelines.answer import Options, answer
from pipelines.errors import NotFound
from pipelines.types import Caller, Event, Finish, Message, Sources
from services.build import Deepwell

#: always means the model in force, so that a client's set-up survives a change of model
ALIAS = "deepwell"


async def resolve(deepwell: Deepwell, caller: Caller, model: str) -> list[str]:
    """Ids of the knowledge bases a model id stands for; [] for the plain model. NotFound names the ids there are."""
    prefixes = (deepwell.chat.id, ALIAS)
    if model in prefixes:
        return []
    bases = {base.name: base.id for base in await deepwell.visible(caller)}
    for prefix in prefixes:
        name = model.removeprefix(prefix + "-")
        if model.startswith(prefix + "-") and name in bases:
            return [bases[name]]
    ids = ", ".join([prefixes[0], *(f"{prefixes[0]}-{name}" for name in bases)])
    raise NotFound(f"there is no model {model!r}; the ids are: {ids}")


async def answer_events(
    deepwell: Deepwell,
    caller: Caller,
    messages: Sequence[Message],
    knowledge_base_ids: Sequence[str],
    *,
    top_k: int | None = None,
    max_tokens: int | None = None,
    options: Options | None = None,
) -> AsyncIterator[Event]:
    """The events of one answer, with the settings in force where the caller names none."""
    settings = deepwell.settings
    found = settings.retrieval
    options = replace(options or Options(), candidates=found.candidates, min_score=found.min_score)
    return answer(
        await deepwell.rag(),
        caller,
        messages,
        knowledge_base_ids,
        profile=deepwell.chat.profile,
        top_k=top_k or found.top_k,
        max_tokens=max_tokens or settings.chat.max_tokens,
        options=options,
    )


def chunk_urls(event: Event, base: str) -> Mapping[str, str]:
    """The address of each passage an event names, under which it can be read with the same key."""
    if isinstance(event, Sources):
        pairs = [(hit.chunk.id, hit.chunk.document_id) for hit in event.hits]
    elif isinstance(event, Finish):
        pairs = [(citation.chunk_id, citation.document_id) for citation in event.citations]
    else:
        return {}
    return {chunk: f"{base.rstrip('/')}/v1/documents/{document}/chunks/{chunk}" for chunk, document in pairs}
