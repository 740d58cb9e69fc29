"""Tools as the protocols write them: definitions and calls in, calls out.

OpenAI's chat: `tools`, `tool_choice`, `parallel_tool_calls`, and the older `functions`, `function_call`. Its responses
have the same without the inner `function` object. Ollama's arguments are objects, its calls may have no id. A field of
another form is ignored: clients send empty ones, and kinds of tools that only OpenAI runs itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from pipelines.errors import BadRequest
from pipelines.tools import Tools
from pipelines.types import Message, ToolCall


def tools_of(data: Mapping[str, Any]) -> Tools | None:
    """The tools a body offers; None for none. Raises BadRequest for the choice of one that is not among them."""
    legacy = is_legacy(data)
    given = data.get("functions") if legacy else data.get("tools")
    offered = [tool for each in given if (tool := _definition(each, legacy))] if isinstance(given, list) else []
    if not offered:
        return None
    choice = _choice(data.get("function_call") if legacy else data.get("tool_choice"))
    names = [tool["function"]["name"] for tool in offered]
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        wanted = choice["function"]["name"]
        raise BadRequest(f"`tool_choice` names {wanted!r}, which is not among the tools: {', '.join(names)}")
    parallel = data.get("parallel_tool_calls")
    return Tools(offered=tuple(offered), choice=choice, parallel=parallel if isinstance(parallel, bool) else None)


def is_legacy(data: Mapping[str, Any]) -> bool:
    """Whether a body speaks of functions, as before tools; its answer then does so, too."""
    return bool(data.get("functions")) and not data.get("tools")


def _definition(given: object, legacy: bool) -> dict[str, Any] | None:
    if not isinstance(given, dict) or (not legacy and given.get("type", "function") != "function"):
        return None
    function = given.get("function", given)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        return None
    return {"type": "function", "function": {name: function[name] for name in _FUNCTION if name in function}}


_FUNCTION = ("name", "description", "parameters", "strict")


def _choice(given: object) -> Any:
    if given in ("auto", "none", "required"):
        return given
    if given == "any":
        return "required"
    if not isinstance(given, dict):
        return None
    function = given.get("function", given)
    name = function.get("name") if isinstance(function, dict) else None
    return {"type": "function", "function": {"name": name}} if isinstance(name, str) and name else None


def calls_of(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls in an assistant's turn of OpenAI's chat or of Ollama's."""
    given = message.get("tool_calls")
    calls = [_call(each) for each in given] if isinstance(given, list) else []
    if not any(calls) and isinstance(message.get("function_call"), dict):
        calls = [_call({"function": message["function_call"]})]
    return tuple(call for call in calls if call is not None)


def _call(given: object) -> ToolCall | None:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    return ToolCall(id=_text(given.get("id")), name=function["name"], arguments=text or "{}")


def turn(role: Any, content: str, message: Mapping[str, Any]) -> Message:
    """A turn of a conversation, with its calls, or with the call that it answers; see `linked`."""
    if role == "tool":
        name = _text(message.get("name")) or _text(message.get("tool_name"))
        return Message(role=role, content=content, tool_call_id=_text(message.get("tool_call_id")), name=name)
    if role != "assistant" or not (calls := calls_of(message)):
        return Message(role=role, content=content)
    thought = (_text(message.get(name)) for name in ("reasoning_content", "reasoning", "thinking"))
    return Message(role=role, content=content, tool_calls=calls, reasoning=next(filter(None, thought), ""))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def linked(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same with an id for each call, and for each result the id and the name of its call.

    A result without an id belongs to the first open call of its name, or to the first open one. One that belongs to
    no call keeps no id: it is text then. Ids that are made depend on the place alone, so that a prompt stays the same.
    """
    out: list[Message] = []
    open_calls: list[ToolCall] = []
    for i, given in enumerate(messages):
        message = given
        if message.tool_calls:
            calls = tuple(replace(call, id=call.id or f"call_{i}_{j}") for j, call in enumerate(message.tool_calls))
            open_calls = [*open_calls, *calls]
            message = replace(message, tool_calls=calls)
        elif message.role == "tool":
            found = _answered(message, open_calls)
            if found is not None:
                open_calls.remove(found)
            message = replace(
                message,
                tool_call_id=found.id if found else "",
                name=found.name if found else message.name,
            )
        out.append(message)
    return tuple(out)


def _answered(result: Message, calls: Sequence[ToolCall]) -> ToolCall | None:
    if result.tool_call_id:
        return next((call for call in calls if call.id == result.tool_call_id), None)
    named = [call for call in calls if call.name == result.name] if result.name else []
    return next(iter(named or ([] if result.name else calls)), None)


def openai_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """`tool_calls` of a whole message of OpenAI's."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def ollama_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """`tool_calls` of a message of Ollama's."""
    return [
        {"id": call.id, "function": {"index": i, "name": call.name, "arguments": arguments_object(call.arguments)}}
        for i, call in enumerate(calls)
    ]


def arguments_object(text: str) -> dict[str, Any]:
    """Arguments of a call as the object that Ollama wants; what is none stands in one."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        found = text
    return found if isinstance(found, dict) else {"arguments": found}
