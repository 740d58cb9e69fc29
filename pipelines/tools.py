"""Tools of the client: offered to the model, called by it, answered by the client in the next request.

Deepwell runs none of them. It passes definitions and calls on, keeps the turns of a round together, and ends a round
that goes in circles: some clients (ChatBox) have no limit of their own.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pipelines.budget import estimate_tokens
from pipelines.types import Message, ToolCall, ToolCallPiece

#: how often the same call may be made for one question, and calls of any kind
SAME_CALLS, CALL_ROUNDS = 3, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the client offers, each in OpenAI's form: {"type": "function", "function": {"name", …}}."""

    offered: tuple[Mapping[str, Any], ...]
    #: "auto", "none", "required" or {"type": "function", "function": {"name": …}}; None leaves it to the engine
    choice: Any = None
    #: whether several calls may come in one turn; None leaves it to the engine
    parallel: bool | None = None

    def tokens(self) -> int:
        """Tokens that the definitions take in the prompt, estimated."""
        return estimate_tokens(orjson.dumps(self.offered).decode())


def split(messages: Sequence[Message], last_user: int) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The turns before the question, and the rounds of tools that followed it; other later turns are left out."""
    last_result = max((i for i, m in enumerate(messages) if m.role == "tool"), default=-1)
    return tuple(messages[:last_user]), tuple(messages[last_user + 1 : last_result + 1])


def of_tools(message: Message) -> bool:
    """Whether a turn calls tools or answers a call."""
    return message.role == "tool" or bool(message.tool_calls or message.reasoning)


def without_tools(messages: Sequence[Message]) -> list[Message]:
    """A conversation for a model without tools: results are text, the calls are left out.

    Results that follow the last question stand before it, so that it stays the last word.
    """
    plain = [
        replace(m, tool_calls=(), tool_call_id="", reasoning="")
        for m in messages
        if m.content.strip() or not m.tool_calls
    ]
    last = next((i for i in reversed(range(len(plain))) if plain[i].role == "user"), len(plain))
    results = [m for m in plain[last + 1 :] if m.role == "tool"]
    return [*plain[:last], *results, *plain[last : last + 1]]


def circling(rounds: Iterable[Message]) -> str:
    """Why no further call may follow these rounds, in words; "" if one may."""
    turns = [message.tool_calls for message in rounds if message.tool_calls]
    same = Counter((call.name, call.arguments) for calls in turns for call in calls).most_common(1)
    if same and same[0][1] >= SAME_CALLS:
        return f"the tool {same[0][0][0]} was called {same[0][1]} times with the same arguments: no more calls allowed"
    if len(turns) >= CALL_ROUNDS:
        return f"tools were called in {len(turns)} rounds for one question: no more calls allowed"
    return ""


class ToolCalls:
    """The calls of one answer, put together from their pieces."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, str, list[str]]] = []
        self._by_index: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def take(self, index: int, call_id: str, name: str, arguments: str) -> ToolCallPiece:
        """Note a piece; the same under our own number: some servers count from 0 again in every event."""
        known = self._by_index.get(index)
        if known is None or (call_id and name and self._calls[known][0] != call_id):
            known = self._by_index[index] = len(self._calls)
            call_id = call_id or f"call_{secrets.token_hex(12)}"
            self._calls.append((call_id, name, [arguments]))
            return ToolCallPiece(index=known, id=call_id, name=name, arguments=arguments)
        self._calls[known][2].append(arguments)
        return ToolCallPiece(index=known, arguments=arguments)

    def add(self, piece: ToolCallPiece) -> None:
        """Note a piece that another one's `take` gave."""
        self.take(piece.index, piece.id, piece.name, piece.arguments)

    def whole(self) -> tuple[ToolCall, ...]:
        """The calls so far. One without arguments has an empty object: clients read them as JSON."""
        return tuple(
            ToolCall(id=call_id, name=name, arguments="".join(pieces) or "{}") for call_id, name, pieces in self._calls
        )
