"""A question, or a conversation, becomes a stream of answer events: sources, thinking, text, end.

    retrieve -> prompt within the window -> model -> thinking apart -> citations resolved

Without knowledge bases the same is a plain chat. The stand-in model is never let speak: it answers in quotes.
"""

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
from pipelines.generate import generate
from pipelines.generation import Generation
from pipelines.neighbours import with_context
from pipelines.profiles import Profile
from pipelines.prompts import ordered, search_prompt
from pipelines.rag import Rag
from pipelines.retrieve import retrieve
from pipelines.turn import Options, Turn, begin
from pipelines.types import Caller, Event, Hit, Message, Sources, Text


async def answer(
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
    """The events of the answer to a turn from its passages."""
    if hits == () and turn.options.tools is None:
        yield Sources(hits=())
        yield Text(phrases.NOTHING_FOUND[turn.language])
        yield turn.finish(abstained=True)
        return
    if profile.stand_in:
        yield Sources(hits=hits or ())
        events = _extract(rag, turn, hits or ())
    else:
        if turn.options.adaptive and turn.options.thinking is None and decisive(hits or ()):
            turn.options = replace(turn.options, thinking=False)
        tools = turn.options.tools
        budget = plan(
            turn.question,
            hits or (),
            turn.history,
            window=await context_window(rag.chat, profile),
            max_tokens=max_tokens,
            thinking=turn.options.thinking_budget,
            beside=sum(map(message_tokens, turn.after)) + (tools.tokens() if tools is not None else 0),
        )
        yield Sources(hits=budget.hits)
        events = _write(rag, turn, budget, profile)
    async with aclosing(events):
        async for event in events:
            yield event


async def context_window(chat: BaseChatModel, profile: Profile) -> int:
    """Tokens of the engine's real window; what the profile says where the engine cannot be asked."""
    found = await chat.window() if streams_deltas(chat) else 0
    return found or profile.context


async def _extract(rag: Rag, turn: Turn, hits: tuple[Hit, ...]) -> AsyncGenerator[Event, None]:
    """The stand-in's answer: quotes, or, without passages, how to get a model to talk with."""
    if not hits:
        yield Text(phrases.STAND_IN_CHAT[turn.language])
        yield turn.finish()
        return
    quotes = await extract.best_quotes(rag.embeddings, turn.question, hits)
    yield Text(extract.write(quotes, turn.language))
    yield turn.finish(citations=extract.citations(quotes, hits), abstained=not quotes)


async def _write(rag: Rag, turn: Turn, budget: Budget, profile: Profile) -> AsyncGenerator[Event, None]:
    """The model's answer: thinking as it comes, text with resolved citations, and never nothing."""
    parser = CitationParser(budget.hits) if budget.hits else None
    generation = Generation(
        chat=rag.chat,
        messages=prompt_messages(turn, budget, profile),
        profile=profile,
        budget=budget,
        options=turn.options,
        language=turn.language,
        citing=parser,
        guard=language_guard(turn),
        relay=turn.options.relay,
    )
    written = generation.written
    async with aclosing(generate(generation)) as pieces:
        async for piece in pieces:
            turn.mark("first_token")
            if not isinstance(piece, Text):
                yield piece
            elif text := piece.text if parser is None else parser.feed(piece.text):
                written.append(text)
                yield Text(text)
    if parser is not None and (rest := parser.close()):
        written.append(rest)
        yield Text(rest)
    if not generation.calls and not "".join(written).strip():
        yield Text(generation.apology())
    citations = parser.citations() if parser else ()
    warnings = [*turn.warnings, *budget.warnings, *generation.warnings]
    if parser is not None and parser.dropped:
        warnings.append(f"{parser.dropped} citations of passages that do not exist were dropped")
    yield turn.finish(
        reason=generation.reason,
        usage=generation.usage,
        citations=citations,
        abstained=bool(budget.hits) and not citations and not generation.calls and abstains("".join(written)),
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
