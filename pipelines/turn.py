"""One turn of a conversation: what is asked and how, what came before, and the rounds of tools since."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from types import TracebackType
from typing import Any

from pipelines.errors import BadRequest, RagError
from pipelines.generation import Relaying
from pipelines.language import Language, detect
from pipelines.profiles import Profile
from pipelines.prompts import Order
from pipelines.reasoning import strip_reasoning
from pipelines.tools import Tools, circling, of_tools, split, without_tools
from pipelines.types import Finish, Message
from pipelines.watch import Watch, current, step

#: a question shorter than this is looked up with the one before; in characters, of which Japanese and Chinese count 3
FOLLOW_UP = 60


@dataclass(slots=True, kw_only=True)
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
    #: what the client lets the model call; left out where the model cannot
    tools: Tools | None = None
    #: Ollama's word for how long the model stays loaded; None leaves it to setting and server
    keep_alive: str | float | None = None
    #: how much later than others it may be worked on, for engines that know priorities; 0 is the usual
    priority: int = 0
    #: writes the model's answer to the client past the events
    relay: Relaying | None = None


@dataclass(slots=True)
class Turn:
    """What is asked, and the clock of its answer."""

    messages: Sequence[Message]
    options: Options
    question: str = ""
    history: tuple[Message, ...] = ()
    #: rounds of tools since the question
    after: tuple[Message, ...] = ()
    language: Language = "en"
    looked_up: str = ""
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    #: where it is noted what this answer spends its time on
    watch: Watch = field(default_factory=lambda: current() or Watch())
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        last = next((i for i in reversed(range(len(self.messages))) if self.messages[i].role == "user"), -1)
        if last < 0 or not self.messages[last].content.strip():
            raise BadRequest("there is no question: the conversation needs a user message with text in it")
        self.question = self.messages[last].content.strip()
        before, after = split(self.messages, last)
        self.history, self.after = tuple(map(clean, before)), tuple(map(clean, after))
        self.language = self.options.answer_in or detect(self.question)
        with step("rewrite"):
            self.looked_up = look_up(self.question, self.history)
        self.watch.question = self.question

    def __enter__(self) -> None:
        """Within, an error or a client that leaves is noted as the end of the question."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, RagError):
            self.watch.outcome, self.watch.error = "failed", error.code
        elif kind is not None and issubclass(kind, GeneratorExit | asyncio.CancelledError):
            self.watch.outcome = self.watch.outcome or "left"

    def mark(self, step: str, at: float = 0.0) -> None:
        """Note the seconds from the beginning until now, or until `at`, once for each step."""
        if step not in self.timings:
            self.timings[step] = round((at or time.perf_counter()) - self._began, 4)

    def note_stream(self, began: float, first: float) -> None:
        """Note waiting for the engine's first token and the stream after it; `first` is when a relay wrote it."""
        self.mark("first_token", first)
        first, now = self._began + self.timings["first_token"], time.perf_counter()
        self.watch.note("first token", began, first)
        self.watch.note("stream", first, now)

    def finish(self, **fields: Any) -> Finish:
        """The end, with the timings."""
        self.mark("first_token")
        self.mark("total")
        made = Finish(timings=self.timings, **fields)
        self.watch.note_answer(made)
        return made


def begin(messages: Sequence[Message], options: Options, profile: Profile) -> Turn:
    """A turn for a model of this family: without tools where it has none, and with an end to calls in circles."""
    tools = options.tools
    if profile.tools == "none" and (tools is not None or any(map(of_tools, messages))):
        return Turn(without_tools(messages), replace(options, tools=None))
    turn = Turn(messages, options)
    if tools is None:
        return turn
    if profile.tools == "without_thinking" and options.thinking is None:
        turn.options = replace(options, thinking=False)
    if why := circling(turn.after):
        turn.options = replace(turn.options, tools=replace(tools, choice="none"))
        turn.warnings.append(why)
    return turn


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
