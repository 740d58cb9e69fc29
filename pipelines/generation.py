"""What is to be generated, and what came of it: passed between the answer, the chat model and a relay."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models import BaseChatModel

from pipelines import phrases
from pipelines.budget import Budget
from pipelines.citations import CitationParser
from pipelines.drift import LanguageGuard
from pipelines.language import Language
from pipelines.profiles import Profile
from pipelines.tools import ToolCalls
from pipelines.types import Message, Usage

if TYPE_CHECKING:
    from pipelines.turn import Options

#: how far over its limit of thinking tokens an engine may go before we cut: engines that keep it themselves need a few
#: tokens for its end
SLACK = 1.05


@dataclass(slots=True)
class Generation:
    """What is to be generated, and afterwards what came of it."""

    chat: BaseChatModel
    messages: list[Message]
    profile: Profile
    budget: Budget
    options: "Options"
    language: Language
    citing: CitationParser | None = None
    guard: LanguageGuard | None = None
    #: the model's first answer was written by a relay
    relayed: bool = False
    reason: Literal["stop", "length", "tool_calls"] = "stop"
    usage: Usage = field(default_factory=Usage)
    warnings: list[str] = field(default_factory=list)
    #: pieces of thinking so far, and how many tokens they are
    thoughts: list[str] = field(default_factory=list)
    thought_tokens: int = 0
    #: pieces of the answer shown so far
    written: list[str] = field(default_factory=list)
    #: the model wrote something of an answer, whether it was shown or not
    answered: bool = False
    #: thinking was stopped at its limit
    cut: bool = False
    #: the tools it called
    calls: ToolCalls = field(default_factory=ToolCalls)
    #: when a relay wrote the first token, in seconds of `time.perf_counter`; 0 for an answer that came as events
    first: float = 0.0

    def apology(self) -> str:
        """What is said instead of nothing."""
        if self.reason == "length":
            return phrases.CUT_WHILE_THINKING[self.language].format(tokens=self.budget.max_tokens)
        return phrases.EMPTY[self.language]

    def limit(self) -> float:
        """Tokens of thinking at which it is cut."""
        return self.budget.thinking * SLACK + 1

    def over(self) -> bool:
        """Whether thinking has met its limit."""
        return self.thought_tokens >= self.limit()

    def note_usage(self, usage: dict[str, Any]) -> None:
        """Take an engine's counts; vLLM says 0 tokens of reasoning where there are some, so ours are taken then."""
        completion = int(usage.get("completion_tokens") or 0)
        reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        self.usage = Usage(
            prompt=int(usage.get("prompt_tokens") or 0),
            completion=completion,
            reasoning=int(reasoning or 0) or min(self.thought_tokens, completion),
        )

    def note_reason(self, reason: str) -> None:
        """Take an engine's reason for its end; some say `stop` where tools were called."""
        if reason == "stop" and self.calls:
            self.reason = "tool_calls"
        elif reason in {"stop", "length", "tool_calls"}:
            self.reason = reason  # type: ignore[assignment]

    def arguments(self) -> dict[str, Any]:
        """Call arguments for the chat model."""
        given: dict[str, Any] = {
            "max_tokens": self.budget.max_tokens,
            "temperature": self.options.temperature,
            "top_p": self.options.top_p,
            "seed": self.options.seed,
            "thinking": self.options.thinking,
            "effort": self.options.effort or None,
            "free_sampling": self.options.free_sampling or None,
            "keep_alive": self.options.keep_alive,
            "priority": self.options.priority or None,
            "thinking_budget": self.budget.thinking if self.profile.thinks != "never" else None,
        }
        if (tools := self.options.tools) is not None:
            given |= {"tools": tools.offered, "tool_choice": tools.choice, "parallel_tool_calls": tools.parallel}
        return {name: value for name, value in given.items() if value is not None}


#: Writes an answer to the client past the events, from the model server's bytes, and notes in the generation what came
#: of it. False, with nothing sent, if the answer has to come as events.
Relaying = Callable[[Generation], Awaitable[bool]]
