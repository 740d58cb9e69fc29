"""The model that `deepwell doctor --model` probes, and what a probe of it finds."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage

from connectors.chat_model import ServedChat
from pipelines.budget import Budget
from pipelines.delta import Delta
from pipelines.generate import generate
from pipelines.generation import Generation
from pipelines.profiles import Profile
from pipelines.turn import Options
from pipelines.types import Message, Reasoning, Text

Outcome = Literal["pass", "fail", "not applicable"]
#: tokens a probe's answer may have, thinking included
TOKENS = 1500
#: the same for a model that does not think
SHORT = 48
#: parameters below which a model cannot be asked for knowledge
LEAST_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe found."""

    outcome: Outcome
    found: str
    fix: str = ""


@dataclass(slots=True)
class Subject:
    """The model that is probed."""

    chat: ServedChat
    profile: Profile
    #: version the server tells; "" if it does not
    version: str = ""
    #: why knowledge cannot be asked of it; "" if it can
    too_small: str = ""
    #: flags the engine of this version wants for this family
    flags: tuple[str, ...] = ()
    _answers: dict[str, list[Delta]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the model server's kind."""
        return self.chat.engine.name

    async def ask(self, question: str, **arguments: Any) -> list[Delta]:
        """The stream of an answer; the same question is asked once."""
        key = f"{question} {arguments}"
        if key not in self._answers:
            messages: list[BaseMessage] = [HumanMessage(question)]
            asked = {"max_tokens": TOKENS if self.profile.thinks != "never" else SHORT, **arguments}
            self._answers[key] = [delta async for delta in self.chat.stream_deltas(messages, **asked)]
        return self._answers[key]

    async def generated(self, max_tokens: int, budget: int, **options: Any) -> tuple[str, str, Generation]:
        """(thinking, answer, how it ended), made as Deepwell makes its answers."""
        generation = Generation(
            chat=self.chat,
            messages=[Message(role="user", content=COUNTING)],
            profile=self.profile,
            budget=Budget(hits=(), history=(), max_tokens=max_tokens, thinking=budget),
            options=Options(**options),
            language="en",
        )
        pieces = [piece async for piece in generate(generation)]
        thought = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
        return thought, "".join(piece.text for piece in pieces if isinstance(piece, Text)), generation


COUNTING = "How many times does the letter r occur in the word strawberry?"
Probe = Callable[[Subject], Awaitable[Result]]


def thinking_in(deltas: Sequence[Delta]) -> str:
    """The thinking of a stream."""
    return "".join(delta.reasoning for delta in deltas)


def answer_in(deltas: Sequence[Delta]) -> str:
    """The answer of a stream."""
    return "".join(delta.content for delta in deltas)
