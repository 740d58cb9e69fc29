"""The one verb behind every client's protocol: a model id and a conversation become a stream of answer events."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from connectors.citing import without_sources_list
from pipelines.answer import answer
from pipelines.errors import TooManyRequests, Unavailable, UnknownModel
from pipelines.language import Language, detect
from pipelines.meta_prompts import MetaPrompt, recognise
from pipelines.profiles import Profile
from pipelines.rag import Rag
from pipelines.thinking import NOTHINK
from pipelines.turn import Options
from pipelines.types import Caller, Event, Finish, Message, Text
from pipelines.watch import current
from services.build import Deepwell
from services.side_calls import LATER

log = logging.getLogger(__name__)
#: always means the model in force, so that a client's set-up survives a change of model
ALIAS = "deepwell"
#: the plain model under names that are fixed in a client: Dify's DeepSeek plugin sends one of these
FIXED = ("deepseek-v4-flash", "deepseek-v4-pro")
#: Ollama's tag, which its clients may leave out or send to any path
LATEST = ":latest"
#: tokens for what a client asks for itself
META_TOKENS = 512


async def resolve(deepwell: Deepwell, caller: Caller, model: str) -> list[str]:
    """Ids of the knowledge bases a model id stands for; [] for the plain model. Raises UnknownModel with the ids."""
    prefixes = (deepwell.chat.id, ALIAS)
    model = model.removesuffix(LATEST).removesuffix(NOTHINK)
    if model in (*prefixes, *FIXED):
        return []
    bases = {base.name: base.id for base in await deepwell.visible(caller)}
    for prefix in prefixes:
        name = model.removeprefix(prefix + "-")
        if model.startswith(prefix + "-") and name in bases:
            return [bases[name]]
    ids = ", ".join([prefixes[0], *(f"{prefixes[0]}-{name}" for name in bases)])
    raise UnknownModel(f"there is no model {model!r}; the ids are: {ids}")


async def model_ids(deepwell: Deepwell, caller: Caller) -> list[tuple[str, str]]:
    """The ids to list, each with the name of its knowledge base: the plain model ("") and one for each knowledge base.

    Then the same with `:nothink`, where the model thinks: many clients can choose from the list and nothing else.
    """
    plain = deepwell.chat.id
    ids = [(plain, ""), *((f"{plain}-{base.name}", base.name) for base in await deepwell.visible(caller))]
    if deepwell.chat.profile.thinks == "never":
        return ids
    return ids + [(model + NOTHINK, base) for model, base in ids]


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
    if (watch := current()) is not None:
        watch.model = deepwell.chat.id
    settings = deepwell.settings
    found = settings.retrieval
    if knowledge_base_ids or settings.chat.answer_language:  # else nothing of it matters, and a copy takes 6 µs
        options = replace(
            options or Options(),
            candidates=found.candidates,
            min_score=found.min_score,
            neighbours=found.neighbours,
            adaptive=settings.chat.thinking == "adaptive",
            answer_in=settings.chat.answer_language or None,
        )
    events = answer(
        await deepwell.rag(),
        caller,
        messages,
        knowledge_base_ids,
        profile=deepwell.chat.profile,
        top_k=top_k or found.top_k,
        max_tokens=max_tokens or settings.chat.max_tokens,
        options=options,
    )
    return deepwell.side_calls.answering(events)


async def client_events(
    deepwell: Deepwell,
    caller: Caller,
    messages: Sequence[Message],
    knowledge_base_ids: Sequence[str],
    *,
    max_tokens: int | None = None,
    options: Options | None = None,
) -> AsyncIterator[Event]:
    """The same for a chat client, whose own requests (pings, titles, tags) are answered without search and thinking."""
    messages = [
        replace(message, content=without_sources_list(message.content)) if message.role == "assistant" else message
        for message in messages
    ]
    person = not deepwell.settings.chat.meta_prompts or messages[-1].role == "tool"  # the middle of an agent's turn
    meta = None if person else recognise(messages, max_tokens)
    if meta is None:
        return await answer_events(
            deepwell, caller, messages, knowledge_base_ids, max_tokens=max_tokens, options=options
        )
    if (watch := current()) is not None:
        watch.model, watch.outcome = deepwell.chat.id, "client"
    options = replace(options or Options(), thinking=False, relay=None)
    tokens = min(max_tokens or META_TOKENS, META_TOKENS)
    rag = await deepwell.rag()
    utility = deepwell.utility
    if meta.kind not in ("ping", "short") and deepwell.settings.chat.priority:
        options = replace(options, priority=LATER)
    if utility is not None and meta.kind not in ("ping", "short"):
        rag = replace(rag, chat=utility.model)
        events = _without_search(rag, utility.profile, caller, messages, tokens, options)
        apart = deepwell.settings.chat.utility_url not in ("", deepwell.settings.chat.url)
        return _or_without(meta, events if apart else deepwell.side_calls.waiting(events))
    if meta.answer is not None:
        return _canned(meta.answer)
    events = _without_search(rag, deepwell.chat.profile, caller, messages, tokens, options)
    return events if meta.kind == "short" else deepwell.side_calls.waiting(events)


def _without_search(
    rag: Rag, profile: Profile, caller: Caller, messages: Sequence[Message], max_tokens: int, options: Options
) -> AsyncGenerator[Event]:
    return answer(rag, caller, messages, (), profile=profile, max_tokens=max_tokens, options=options)


async def _canned(text: str, *warnings: str) -> AsyncGenerator[Event]:
    yield Text(text)
    yield Finish(warnings=warnings)


async def _or_without(meta: MetaPrompt, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The utility model's answer; the one without a model if it does not begin, since a title is not worth an error."""
    begun = False
    try:
        async with aclosing(events):
            async for event in events:
                begun = begun or isinstance(event, Text)
                yield event
    except (Unavailable, TooManyRequests) as error:
        if begun or meta.answer is None:
            raise
        log.warning("the utility model gave no %s: %s", meta.kind, error)
        async for event in _canned(meta.answer, f"answered without the utility model: {error}"):
            yield event


def language_of(messages: Sequence[Message]) -> Language:
    """The language of the last question."""
    return detect(next((message.content for message in reversed(messages) if message.role == "user"), ""))
