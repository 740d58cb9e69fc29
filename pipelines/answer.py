"""A question, or a conversation, becomes a stream of answer events: sources, thinking, text, end.

    retrieve -> prompt within the window -> model -> thinking apart -> citations resolved

Without knowledge bases the same is a plain chat. The stand-in model is never let speak: it answers in quotes.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from langchain_core.language_models import BaseChatModel

from pipelines import extract, phrases
from pipelines.adaptive import decisive
from pipelines.budget import Budget, plan
from pipelines.citations import CitationParser
from pipelines.delta import streams_deltas
from pipelines.drift import LanguageGuard
from pipelines.errors import BadRequest
from pipelines.generate import generate
from pipelines.generation import Generation, Relaying
from pipelines.language import Language, detect
from pipelines.neighbours import with_context
from pipelines.profiles import Profile
from pipelines.prompts import Order, ordered, search_prompt
from pipelines.rag import Rag
from pipelines.reasoning import strip_reasoning
from pipelines.retrieve import retrieve
from pipelines.types import Caller, Event, Finish, Hit, Message, Reasoning, Sources, Text

#: a question shorter than this is looked up with the one before; in characters, of which Japanese and Chinese count 3
FOLLOW_UP = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to answer; every default is the profile's or Deepwell's."""

    candidates: int = 50
    min_score: float = 0.0
    #: passages before and after each hit that the model reads with it, where the window has room
    neighbours: int = 0
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    #: False skips thinking where the family can
    thinking: bool | None = None
    #: tokens of thinking at most
    thinking_budget: int | None = None
    #: the client's word for it, sent to engines that take one
    effort: str = ""
    #: skip thinking where the evidence for one passage is decisive and the client says nothing about thinking
    adaptive: bool = False
    #: the client's temperature counts even for a family that guards its own
    free_sampling: bool = False
    #: answer in this language whatever the question's
    answer_in: Language | None = None
    #: "canonical" numbers passages by document and place, for engines with a prefix cache
    order: Order = "score"
    today: date | None = None
    #: writes the model's answer to the client past the events
    relay: Relaying | None = None


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
    """Answer the last user message. Yields Sources, then Reasoning and Text as they come, then Finish.

    An empty list of knowledge bases is a plain chat. What `options.relay` writes to the client by itself is not among
    the events. Raises BadRequest (no question, or one longer than the window),
    what retrieval raises, ModelUnavailable and TooManyRequests; before the first Text wherever the cause is known by
    then. Closing the iterator stops the model.
    """
    turn = Turn(messages, options or Options())
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
    if hits == ():
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
        budget = plan(
            turn.question,
            hits or (),
            turn.history,
            window=await context_window(rag.chat, profile),
            max_tokens=max_tokens,
            thinking=turn.options.thinking_budget,
        )
        yield Sources(hits=budget.hits)
        events = _write(rag, turn, budget, profile)
    async with aclosing(events):
        async for event in events:
            yield event


@dataclass(slots=True)
class Turn:
    """What is asked, and the clock of its answer."""

    messages: Sequence[Message]
    options: Options
    question: str = ""
    history: tuple[Message, ...] = ()
    language: Language = "en"
    looked_up: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        last = next((i for i in reversed(range(len(self.messages))) if self.messages[i].role == "user"), -1)
        if last < 0 or not self.messages[last].content.strip():
            raise BadRequest("there is no question: the conversation needs a user message with text in it")
        self.question = self.messages[last].content.strip()
        self.history = tuple(clean(message) for message in self.messages[:last])
        self.language = self.options.answer_in or detect(self.question)
        self.looked_up = look_up(self.question, self.history)

    def mark(self, step: str) -> None:
        """Note the seconds since the beginning, once for each step."""
        self.timings.setdefault(step, round(time.perf_counter() - self._began, 4))

    def finish(self, **fields: Any) -> Finish:
        """The end, with the timings."""
        self.mark("first_token")
        self.mark("total")
        return Finish(timings=self.timings, **fields)


def clean(message: Message) -> Message:
    """An earlier turn as it may go upstream: an assistant's without its thinking."""
    if message.role != "assistant":
        return message
    return replace(message, content=strip_reasoning(message.content))


def look_up(question: str, history: Sequence[Message]) -> str:
    """What to search for: the question; for a short one in a conversation ("and in 2024?") with the one before it.

    No model rewrites it: with a thinking model that takes longer than the answer (RAGFlow issue 4509).
    """
    before = next((message.content for message in reversed(history) if message.role == "user"), "")
    if not before or len(question) >= FOLLOW_UP:
        return question
    length = sum(3 if character > "\u2e80" else 1 for character in question)
    return f"{before.strip()[:400]}\n{question}" if length < FOLLOW_UP else question


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
        guard=LanguageGuard(turn.language, turn.question, fixed=turn.options.answer_in is not None),
        relay=turn.options.relay,
    )
    written = generation.written
    async with aclosing(generate(generation)) as pieces:
        async for piece in pieces:
            turn.mark("first_token")
            if isinstance(piece, Reasoning):
                yield piece
            elif text := piece.text if parser is None else parser.feed(piece.text):
                written.append(text)
                yield Text(text)
    if parser is not None and (rest := parser.close()):
        written.append(rest)
        yield Text(rest)
    if not "".join(written).strip():
        yield Text(generation.apology())
    citations = parser.citations() if parser else ()
    warnings = [*budget.warnings, *generation.warnings]
    if parser is not None and parser.dropped:
        warnings.append(f"{parser.dropped} citations of passages that do not exist were dropped")
    yield turn.finish(
        reason=generation.reason,
        usage=generation.usage,
        citations=citations,
        abstained=bool(budget.hits) and not citations and abstains("".join(written)),
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
    return [*messages, Message(role="user", content=content)]


def abstains(text: str) -> bool:
    """Whether an answer without citations says that the passages do not hold it."""
    head = text.strip()[:400].lower()
    return any(words in head for words in phrases.REFUSALS)
