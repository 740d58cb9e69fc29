"""A question, or a conversation, becomes a stream of answer events: sources, thinking, text, end.

    retrieve -> prompt within the window -> model -> thinking apart -> citations resolved

Without knowledge bases the same is a plain chat. The stand-in model is never let speak: it answers in quotes.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date

from langchain_core.language_models import BaseChatModel

from pipelines import extract, phrases
from pipelines.adaptive import decisive
from pipelines.budget import Budget, message_tokens, plan
from pipelines.citations import CitationParser
from pipelines.delta import streams_deltas
from pipelines.drift import LanguageGuard
from pipelines.generate import Part, generate, left_to_write
from pipelines.generation import Generation
from pipelines.neighbours import with_context
from pipelines.profiles import Profile
from pipelines.prompts import ordered, search_prompt
from pipelines.rag import Rag
from pipelines.retrieve import retrieve
from pipelines.turn import Options, Turn, begin
from pipelines.types import Caller, Event, Finish, Hit, Message, Sources, Text
from pipelines.watch import step


def answer(
    rag: Rag,
    caller: Caller,
    messages: Sequence[Message],
    knowledge_base_ids: Sequence[str],
    *,
    profile: Profile,
    top_k: int = 6,
    max_tokens: int = 4096,
    options: Options | None = None,
) -> AsyncGenerator[Event, None]:
    """Answer the last user message. Yields Sources, then Reasoning, Text and ToolCallPiece as they come, then Finish.

    An empty list of knowledge bases is a plain chat. What `options.relay` writes to the client by itself is not among
    the events. Raises BadRequest (no question, or one longer than the window),
    what retrieval raises, ModelUnavailable and TooManyRequests; before the first Text wherever the cause is known by
    then. Closing the iterator stops the model.
    """
    turn = begin(messages, options or Options(), profile)
    if not knowledge_base_ids:
        return respond(rag, turn, None, profile, max_tokens)
    return _find_and_respond(rag, caller, turn, knowledge_base_ids, top_k, profile, max_tokens)


async def _find_and_respond(
    rag: Rag,
    caller: Caller,
    turn: Turn,
    knowledge_base_ids: Sequence[str],
    top_k: int,
    profile: Profile,
    max_tokens: int,
) -> AsyncGenerator[Event, None]:
    with turn:
        hits = await find(rag, caller, turn, knowledge_base_ids, top_k)
    async with aclosing(respond(rag, turn, hits, profile, max_tokens)) as events:
        async for event in events:
            yield event


async def find(
    rag: Rag, caller: Caller, turn: "Turn", knowledge_base_ids: Sequence[str], top_k: int
) -> tuple[Hit, ...] | None:
    """The passages for a turn, in the order in which they are numbered; None for a plain chat."""
    if not knowledge_base_ids:
        return None
    options = turn.options
    found = await retrieve(
        rag,
        caller,
        turn.looked_up,
        knowledge_base_ids,
        top_k=top_k,
        candidates=max(options.candidates, top_k),
        min_score=options.min_score,
    )
    if options.neighbours and found:
        found = await with_context(rag.passages, found, options.neighbours)
    turn.mark("retrieve")
    return ordered(found, options.order)


async def respond(
    rag: Rag, turn: "Turn", hits: tuple[Hit, ...] | None, profile: Profile, max_tokens: int
) -> AsyncGenerator[Event, None]:
    """The events of the answer to a turn from its passages.

    One generator deep where a relay writes the whole answer: each one more would cost some microseconds.
    """
    with turn:
        if profile.stand_in or (hits == () and turn.options.tools is None):
            async with aclosing(_without_model(rag, turn, hits)) as events:
                async for event in events:
                    yield event
            return
        with step("prompt"):
            budget = await _planned(rag, turn, hits or (), profile, max_tokens)
        yield Sources(hits=budget.hits)
        generation, relaying = _generation(rag, turn, budget, profile), turn.options.relay
        began = time.perf_counter()
        with step("engine"):
            generation.relayed = relaying is not None and await relaying(generation)
            parts = left_to_write(generation) if generation.relayed else generate(generation)
            if parts is not None:
                async with aclosing(_shown(turn, generation, parts)) as shown:
                    async for event in shown:
                        yield event
        turn.note_stream(began, generation.first)
        with step("citations"):
            last, ending = _last_words(generation), _ending(turn, generation)
        for text in last:
            yield text
        yield ending


async def _planned(rag: Rag, turn: Turn, hits: tuple[Hit, ...], profile: Profile, max_tokens: int) -> Budget:
    """The window divided; thinking is switched off on the way where one passage is decisive."""
    options = turn.options
    if options.adaptive and options.thinking is None and decisive(hits):
        options = turn.options = replace(options, thinking=False)
    return plan(
        turn.question,
        hits,
        turn.history,
        window=await context_window(rag.chat, profile),
        max_tokens=max_tokens,
        thinking=options.thinking_budget,
        beside=sum(map(message_tokens, turn.after)) + (options.tools.tokens() if options.tools is not None else 0),
    )


async def context_window(chat: BaseChatModel, profile: Profile) -> int:
    """Tokens of the engine's real window; what the profile says where the engine cannot be asked."""
    found = await chat.window() if streams_deltas(chat) else 0
    return found or profile.context


async def _without_model(rag: Rag, turn: Turn, hits: tuple[Hit, ...] | None) -> AsyncGenerator[Event, None]:
    """What is said where nothing was found, and by the stand-in: quotes, or how to get a model to talk with."""
    yield Sources(hits=hits or ())
    if not hits:
        nothing = hits is not None and turn.options.tools is None
        yield Text((phrases.NOTHING_FOUND if nothing else phrases.STAND_IN_CHAT)[turn.language])
        yield turn.finish(abstained=nothing)
        return
    quotes = await extract.best_quotes(rag.embeddings, turn.question, hits)
    yield Text(extract.write(quotes, turn.language))
    yield turn.finish(citations=extract.citations(quotes, hits), abstained=not quotes)


def _generation(rag: Rag, turn: Turn, budget: Budget, profile: Profile) -> Generation:
    return Generation(
        chat=rag.chat,
        messages=prompt_messages(turn, budget, profile),
        profile=profile,
        budget=budget,
        options=turn.options,
        language=turn.language,
        citing=CitationParser(budget.hits) if budget.hits else None,
        guard=language_guard(turn),
    )


async def _shown(turn: Turn, generation: Generation, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[Event, None]:
    """The model's answer: thinking and calls as they come, text with resolved citations."""
    citing = generation.citing
    async with aclosing(parts):
        async for part in parts:
            turn.mark("first_token", generation.first)
            if not isinstance(part, Text):
                yield part
            elif text := part.text if citing is None else citing.feed(part.text):
                generation.written.append(text)
                yield Text(text)


def _last_words(generation: Generation) -> list[Text]:
    """What was held back at the end, and what is said instead of nothing."""
    texts = []
    if generation.citing is not None and (rest := generation.citing.close()):
        generation.written.append(rest)
        texts.append(Text(rest))
    if not generation.calls and not any(text and not text.isspace() for text in generation.written):
        texts.append(Text(generation.apology()))
    return texts


def _ending(turn: Turn, generation: Generation) -> Finish:
    """How the answer ended, with its citations."""
    budget, citing = generation.budget, generation.citing
    citations = citing.citations() if citing else ()
    warnings = [*turn.warnings, *budget.warnings, *generation.warnings]
    if citing is not None and citing.dropped:
        warnings.append(f"{citing.dropped} citations of passages that do not exist were dropped")
    silent = bool(budget.hits) and not citations and not generation.calls
    return turn.finish(
        reason=generation.reason,
        usage=generation.usage,
        citations=citations,
        abstained=silent and abstains("".join(generation.written)),
        warnings=tuple(warnings),
    )


def prompt_messages(turn: Turn, budget: Budget, profile: Profile) -> list[Message]:
    """The conversation as it goes to the model: history, then one user turn with passages and question in it."""
    today = turn.options.today or date.today()
    messages = list(budget.history)
    if profile.system == "own" and not any(message.role == "system" for message in messages):
        text = profile.system_text.format(date=f"{today.year}年{today.month}月{today.day}日")
        messages.insert(0, Message(role="system", content=text))
    content = turn.question
    if budget.hits:
        content = search_prompt(
            turn.question, budget.hits, language=turn.language, today=today, answer_in=turn.options.answer_in
        )
    elif turn.options.answer_in is not None:
        content += "\n\n" + phrases.WRITE_IN[turn.options.answer_in].format(language="English")
    return [*messages, Message(role="user", content=content), *turn.after]


def language_guard(turn: Turn) -> LanguageGuard | None:
    """Watches the answer's language; not among tools, where a sentence before a call is no answer yet."""
    if turn.options.tools is not None or turn.after:
        return None
    return LanguageGuard(turn.language, turn.question, fixed=turn.options.answer_in is not None)


def abstains(text: str) -> bool:
    """Whether an answer without citations says that the passages do not hold it."""
    head = text.strip()[:400].lower()
    return any(words in head for words in phrases.REFUSALS)
