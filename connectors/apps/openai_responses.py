"""`POST /v1/responses`: what n8n, the AI SDK and ChatBox call by default. Text, thinking, calls, citations as events.

Source: platform.openai.com/docs/api-reference/responses and its streaming events. Thinking goes out as a
reasoning item with a summary, since that is what the AI SDK, LangChain and Ollama's own implementation read and write.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from connectors.asking import options_of
from connectors.bodies import dumps, json_object, number, whole
from connectors.citing import search_results, spans
from connectors.response_items import MISSING, ItemOf, Json, conversation, input_items
from pipelines.errors import BadRequest, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.turn import Options
from pipelines.types import Event, Finish, Hit, Message, Reasoning, Sources, Text, ToolCallPiece, Usage

KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_AFTER = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """What of a request matters; everything else is taken, echoed where the answer has a place for it, and ignored."""

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    max_tokens: int | None = None
    how: Options = field(default_factory=Options)
    raw: Mapping[str, Any] = field(default_factory=dict)
    #: the conversation as items, with what an earlier response brought
    items: Sequence[Json] = ()
    #: whether the response may be kept for later requests; OpenAI's default is yes
    store: bool = True


def parse_responses(
    body: bytes, items_of: Callable[[str], list[Json]] | None = None, item_of: ItemOf | None = None
) -> ResponsesRequest:
    """Read a request body. `items_of` gives the conversation of an earlier response, `item_of` one of its items.

    Raises BadRequest, and NotFound where these are not there.
    """
    data = json_object(body, "`model` and `input`")
    model, instructions = data.get("model"), data.get("instructions")
    if not isinstance(model, str) or not model:
        raise BadRequest("`model` must be a string; GET /v1/models lists the ids")
    if data.get("conversation"):
        raise BadRequest(f"there are no conversations here: {MISSING}")
    if instructions is not None and not isinstance(instructions, str):
        raise BadRequest("`instructions` must be a string")
    previous = data.get("previous_response_id")
    if previous and items_of is None:
        raise BadRequest(f"no responses are kept here: {MISSING}")
    before = items_of(str(previous)) if previous and items_of is not None else []
    items = [*before, *input_items(data.get("input"), item_of)]
    first = [Message(role="system", content=instructions)] if instructions else []
    return ResponsesRequest(
        model=model,
        messages=(*first, *conversation(items)),
        stream=data.get("stream") is True,
        max_tokens=whole(data.get("max_output_tokens")),
        how=options_of(data),
        raw=data,
        items=items,
        store=data.get("store") is not False,
    )


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

    def __init__(
        self,
        request: ResponsesRequest,
        urls: Mapping[str, str],
        keep: Callable[[Json, Sequence[Json]], None] | None = None,
    ) -> None:
        """`keep` takes the finished response and the items it answers."""
        self.request = request
        self._keep = keep if request.store else None
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
            "parallel_tool_calls": raw.get("parallel_tool_calls") is not False,
            "previous_response_id": raw.get("previous_response_id") or None,
            "reasoning": {"effort": None, "summary": None},
            "store": self._keep is not None,
            "temperature": number(self.request.raw.get("temperature")),
            "text": {"format": {"type": "text"}},
            "tool_choice": raw.get("tool_choice") or "auto",
            "tools": raw.get("tools") if isinstance(raw.get("tools"), list) else [],
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

    def _begin(self, item: Json) -> list[bytes]:
        """Frames that end the item before, and begin this one."""
        frames = self._end()
        self._open, self._pieces = True, []
        item["status"] = "in_progress"
        self.output.append(item)
        return [*frames, self._frame("response.output_item.added", output_index=len(self.output) - 1, item=item)]

    def _start(self, kind: str) -> list[bytes]:
        """Frames that begin an item of this kind, and end the one before; none if it is begun already."""
        if self._open and self.output[-1]["type"] == kind:
            return []
        if kind == "reasoning":
            item: Json = {"id": "rs_" + secrets.token_hex(16), "type": "reasoning", "summary": []}
            part: Json = {"type": "summary_text", "text": ""}
            place = {"summary_index": 0}
            name = "response.reasoning_summary_part.added"
        else:
            item = {"id": "msg_" + secrets.token_hex(16), "type": "message", "role": "assistant", "content": []}
            part, place = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}, {"content_index": 0}
            name = "response.content_part.added"
        return [*self._begin(item), self._frame(name, **self._at(), **place, part=part)]

    def _call(self, piece: ToolCallPiece) -> list[bytes]:
        """Frames of a piece of a call: its item with the first one."""
        frames: list[bytes] = []
        if piece.id:
            item = {"id": "fc_" + secrets.token_hex(16), "type": "function_call", "call_id": piece.id}
            frames = self._begin({**item, "name": piece.name, "arguments": ""})
        self._pieces.append(piece.arguments)
        kind = "response.function_call_arguments.delta"
        return [*frames, *([self._frame(kind, **self._at(), delta=piece.arguments)] if piece.arguments else [])]

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
        if item["type"] == "function_call":
            item["arguments"] = text or "{}"
            fields = {"name": item["name"], "arguments": item["arguments"]}
            frames = [self._frame("response.function_call_arguments.done", **at, **fields)]
        elif item["type"] == "reasoning":
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
        if isinstance(event, ToolCallPiece):
            return self._call(event)
        ended = self._end(event)
        final = self.final(event)
        return [*ended, self._frame(f"response.{final['status']}", response=final)]

    def final(self, finish: Finish) -> Json:
        """The response object at its end: completed, or incomplete when the tokens ran out."""
        fields: Json = {"output": self.output, "usage": usage_body(finish.usage)}
        if finish.warnings:
            fields["warnings"] = list(finish.warnings)
        cut = finish.reason == "length"
        details = {"reason": "max_output_tokens"} if cut else None
        made = self.response("incomplete" if cut else "completed", incomplete_details=details, **fields)
        if self._keep is not None:
            self._keep(made, self.request.items)
        return made

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
                self._end(finish)
            else:
                self.frames(event)
        return self.final(finish)
