"""Items of a conversation as OpenAI's responses have them: messages, thinking, calls of tools and their results.

A turn is several items there: thinking, a message, calls. They are put together again to one message each.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from connectors.bodies import content_text, role_of
from connectors.tools import linked
from pipelines.errors import BadRequest, NotFound
from pipelines.types import Message, ToolCall

Json = dict[str, Any]
#: the item of an earlier answer by its id; None if it is not kept
ItemOf = Callable[[str], Json | None]
MISSING = "send the whole conversation in `input`, and `store: false` where a client can"


def input_items(given: object, item_of: ItemOf | None = None) -> list[Json]:
    """What stands in `input`, as items; references to earlier items followed. Raises BadRequest, NotFound."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise BadRequest("`input` must be a string or a list with at least one message")
    return [_item(item, i, item_of) for i, item in enumerate(given)]


def _item(item: object, i: int, item_of: ItemOf | None) -> Json:
    if not isinstance(item, dict):
        raise BadRequest(f"input[{i}] must be an object")
    if item.get("type") != "item_reference":
        return item
    found = item_of(str(item.get("id"))) if item_of is not None else None
    if found is None:
        raise NotFound(f"input[{i}]: there is no item with id {item.get('id')!r} any more: {MISSING}")
    return found


def conversation(items: Sequence[Json]) -> tuple[Message, ...]:
    """Items as turns. Thinking is kept with the calls that follow it, for the families that want it back."""
    turns: list[Message] = []
    thought = ""
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought = _thought(item)
        elif kind == "function_call":
            turns = _with_call(turns, _call(item, i), thought)
        elif kind == "function_call_output":
            output = content_text(item.get("output"), f"input[{i}].output")
            turns.append(Message(role="tool", content=output, tool_call_id=str(item.get("call_id") or "")))
        elif kind == "message":
            role = role_of(item)
            if role is None:
                raise BadRequest(f"input[{i}].role must be system, developer, user or assistant")
            turns.append(Message(role=role, content=content_text(item.get("content"), f"input[{i}].content")))
            thought = thought if role == "assistant" else ""
    return linked(turns)


def _call(item: Json, i: int) -> ToolCall:
    name, arguments = item.get("name"), item.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str | None):
        raise BadRequest(f"input[{i}] must have `name` and `arguments` as strings")
    return ToolCall(id=str(item.get("call_id") or item.get("id") or ""), name=name, arguments=arguments or "{}")


def _with_call(turns: list[Message], call: ToolCall, thought: str) -> list[Message]:
    """The turns with one call more: in the assistant's last turn, if no other turn came since."""
    if not turns or turns[-1].role != "assistant":
        return [*turns, Message(role="assistant", content="", tool_calls=(call,), reasoning=thought)]
    last = turns[-1]
    return [*turns[:-1], replace(last, tool_calls=(*last.tool_calls, call), reasoning=last.reasoning or thought)]


def _thought(item: Json) -> str:
    """The words of a reasoning item: its content, else its summary."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if words := "".join(text for text in texts if isinstance(text, str)):
            return words
    return ""
