"""`POST /v1/responses`: what n8n, the AI SDK and ChatBox call by default. Text, thinking and citations as events.

Source: platform.openai.com/docs/api-reference/responses and its streaming events. Nothing is stored, so that each
request has to bring the whole conversation. Thinking goes out as a reasoning item with a summary, since that is what
the AI SDK, LangChain and Ollama's own implementation read and write.
"""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from connectors.bodies import content_text, dumps, json_object, number, role_of, whole
from connectors.citing import search_results, spans
from pipelines.errors import BadRequest, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.types import Event, Finish, Hit, Message, Reasoning, Sources, Text, Usage

KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_AFTER = 12.0
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """What of a request matters; everything else is taken, echoed where the answer has a place for it, and ignored."""

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    max_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


def parse_responses(body: bytes) -> ResponsesRequest:
    """Read a request body. Raises BadRequest."""
    data = json_object(body, "`model` and `input`")
    model, instructions = data.get("model"), data.get("instructions")
    if not isinstance(model, str) or not model:
        raise BadRequest("`model` must be a string; GET /v1/models lists the ids")
    if data.get("previous_response_id") or data.get("conversation"):
        raise BadRequest("responses are not stored here: send the whole conversation in `input`")
    if instructions is not None and not isinstance(instructions, str):
        raise BadRequest("`instructions` must be a string")
    first = [Message(role="system", content=instructions)] if instructions else []
    return ResponsesRequest(
        model=model,
        messages=(*first, *_messages(data.get("input"))),
        stream=data.get("stream") is True,
        max_tokens=whole(data.get("max_output_tokens")),
        raw=data,
    )


def _messages(given: object) -> list[Message]:
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    if not isinstance(given, list) or not given:
        raise BadRequest("`input` must be a string or a list with at least one message")
    return [message for i, item in enumerate(given) if (message := _message(item, i)) is not None]


def _message(item: object, i: int) -> Message | None:
    """One item of the conversation; None for thinking and tool calls of earlier turns, which are not sent back."""
    if not isinstance(item, dict):
        raise BadRequest(f"input[{i}] must be an object")
    kind = item.get("type", "message")
    if kind == "item_reference":
        raise BadRequest("responses are not stored here: send the items themselves, not references to them")
    if kind == "function_call_output":
        return Message(role="tool", content=content_text(item.get("output"), f"input[{i}].output"))
    if kind != "message":
        return None
    role = role_of(item)
    if role is None:
        raise BadRequest(f"input[{i}].role must be system, developer, user or assistant")
    return Message(role=role, content=content_text(item.get("content"), f"input[{i}].content"))


def usage_body(usage: Usage) -> Json:
    """`usage` in the names of this protocol."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


class ResponseWriter:
    """One answer on the wire: turns events into numbered frames, or into one body."""

    def __init__(self, request: ResponsesRequest, urls: Mapping[str, str]) -> None:
        self.request = request
        #: resolvable address of each chunk, filled when the sources come
        self.urls = urls
        self.id = "resp_" + secrets.token_hex(16)
        self.created = int(time.time())
        self.hits: tuple[Hit, ...] = ()
        #: finished items and, last, the one being written
        self.output: list[Json] = []
        self._pieces: list[str] = []
        self._sequence = 0
        self._open = False

    def response(self, status: str, **fields: Any) -> Json:
        """The response object as it is now."""
        raw = self.request.raw
        found = {"search_results": search_results(self.hits, self.urls)} if self.hits else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": raw.get("instructions"),
            "max_output_tokens": self.request.max_tokens,
            "metadata": raw.get("metadata") if isinstance(raw.get("metadata"), dict) else {},
            "model": self.request.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": number(self.request.raw.get("temperature")),
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": number(self.request.raw.get("top_p")),
            "truncation": "disabled",
            "usage": None,
            **found,
            **fields,
        }

    def _frame(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return f"event: {kind}\ndata: ".encode() + dumps(data) + b"\n\n"

    def _at(self) -> Json:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _start(self, kind: str) -> list[bytes]:
        """Frames that begin an item of this kind, and end the one before; none if it is begun already."""
        if self._open and self.output[-1]["type"] == kind:
            return []
        frames = self._end()
        self._open, self._pieces = True, []
        if kind == "reasoning":
            item: Json = {"id": "rs_" + secrets.token_hex(16), "type": "reasoning", "summary": []}
            part: Json = {"type": "summary_text", "text": ""}
            place = {"summary_index": 0}
            name = "response.reasoning_summary_part.added"
        else:
            item = {"id": "msg_" + secrets.token_hex(16), "type": "message", "role": "assistant", "content": []}
            part, place = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}, {"content_index": 0}
            name = "response.content_part.added"
        item["status"] = "in_progress"
        self.output.append(item)
        added = {"output_index": len(self.output) - 1, "item": item}
        return [
            *frames,
            self._frame("response.output_item.added", **added),
            self._frame(name, **self._at(), **place, part=part),
        ]

    def _delta(self, text: str) -> bytes:
        self._pieces.append(text)
        if self.output[-1]["type"] == "reasoning":
            return self._frame("response.reasoning_summary_text.delta", **self._at(), summary_index=0, delta=text)
        return self._frame("response.output_text.delta", **self._at(), content_index=0, delta=text, logprobs=[])

    def _end(self, finish: Finish | None = None) -> list[bytes]:
        """Frames that end the item being written, with the citations if it is the answer."""
        if not self._open:
            return []
        self._open = False
        item, at, text = self.output[-1], self._at(), "".join(self._pieces)
        item["status"] = "completed"
        if item["type"] == "reasoning":
            part: Json = {"type": "summary_text", "text": text}
            item["summary"] = [part]
            frames = [
                self._frame("response.reasoning_summary_text.done", **at, summary_index=0, text=text),
                self._frame("response.reasoning_summary_part.done", **at, summary_index=0, part=part),
            ]
        else:
            notes = self._annotations(text, finish)
            part = {"type": "output_text", "text": text, "annotations": notes, "logprobs": []}
            item["content"] = [part]
            frames = [
                *(
                    self._frame(
                        "response.output_text.annotation.added",
                        **at, content_index=0, annotation_index=i, annotation=note,
                    )
                    for i, note in enumerate(notes)
                ),
                self._frame("response.output_text.done", **at, content_index=0, text=text, logprobs=[]),
                self._frame("response.content_part.done", **at, content_index=0, part=part),
            ]  # fmt: skip
        return [*frames, self._frame("response.output_item.done", output_index=at["output_index"], item=item)]

    def _annotations(self, text: str, finish: Finish | None) -> list[Json]:
        citations = finish.citations if finish else ()
        return [{"type": "url_citation", **span} for span in spans(text, citations, self.urls)]

    def frames(self, event: Event) -> list[bytes]:
        """The frames one event becomes."""
        if isinstance(event, Sources):
            self.hits = event.hits
            return []
        if isinstance(event, Reasoning | Text):
            kind = "reasoning" if isinstance(event, Reasoning) else "message"
            return [*self._start(kind), self._delta(event.text)] if event.text else []
        ended = self._end(event)
        final = self.final(event)
        return [*ended, self._frame(f"response.{final['status']}", response=final)]

    def final(self, finish: Finish) -> Json:
        """The response object at its end: completed, or incomplete when the tokens ran out."""
        fields: Json = {"output": self.output, "usage": usage_body(finish.usage)}
        if finish.warnings:
            fields["warnings"] = list(finish.warnings)
        if finish.reason == "length":
            return self.response("incomplete", incomplete_details={"reason": "max_output_tokens"}, **fields)
        return self.response("completed", **fields)

    async def stream(self, events: Lookahead) -> AsyncIterator[bytes]:
        """Every frame of a streamed answer, keep-alives included."""
        yield self._frame("response.created", response=self.response("in_progress"))
        yield self._frame("response.in_progress", response=self.response("in_progress"))
        try:
            async with aclosing(with_silence(events, KEEP_ALIVE_AFTER)) as watched:
                async for event in watched:
                    for frame in [KEEP_ALIVE] if event is None else self.frames(event):
                        yield frame
        except RagError as error:
            detail = {"message": str(error), "type": "server_error", "param": None, "code": error.code}
            failed = self.response("failed", error={"code": "server_error", "message": str(error)}, output=self.output)
            yield self._frame("response.failed", response=failed)
            # both forms of this event: SDKs of before and after OpenAI changed it
            yield self._frame("error", code=error.code, message=str(error), param=None, error=detail)

    async def body(self, events: AsyncIterator[Event]) -> Json:
        """The body of an answer that is not streamed: what the frames would have built."""
        finish = Finish()
        async for event in events:
            if isinstance(event, Finish):
                finish = event
            self.frames(event)
        return self.final(finish)
