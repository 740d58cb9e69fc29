"""The OpenAI protocol as ChatBox, Open WebUI, Dify, n8n and the SDKs speak it: requests in, frames out.

The wire profile is the one that every client accepts: line ends are "\\n", one `data:` line an event, `choices` in
every frame, reasoning and content never in one delta, usage once, keep-alives as comments, errors without `choices`.
"""

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from connectors.asking import options_of
from connectors.bodies import content_text, json_object, role_of, whole
from connectors.citing import search_results, spans
from connectors.frames import Frames
from connectors.open_webui import FOUND, SEARCHING, source, status
from connectors.reasoning_forms import ReasoningForm, ReasoningOut
from connectors.tools import is_legacy, linked, openai_calls, turn
from pipelines.errors import BadRequest, RagError
from pipelines.language import Language
from pipelines.tools import ToolCalls
from pipelines.turn import Options
from pipelines.types import Citation, Event, Finish, Hit, Message, Reasoning, Sources, Text, ToolCallPiece, Usage

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
#: shown among the thinking while the model server has not begun
WAITING: dict[Language, str] = {
    "en": "Waiting for the model…\n",
    "ja": "モデルの応答を待っています…\n",
    "zh": "正在等待模型……\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What of a `POST /v1/chat/completions` matters to Deepwell; everything else is taken and ignored."""

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    #: True: in a frame of its own at the end; None: on the last frame, as DeepSeek does; False: nowhere in a stream
    include_usage: bool | None = None
    max_tokens: int | None = None
    how: Options = field(default_factory=Options)
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_chat(body: bytes) -> ChatRequest:
    """Read a request body as leniently as the clients need. Raises BadRequest."""
    data = json_object(body, "`model` and `messages`")
    model, messages = data.get("model"), data.get("messages")
    if not isinstance(model, str) or not model:
        raise BadRequest("`model` must be a string; GET /v1/models lists the ids")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("`messages` must be a list with at least one message")
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    options = data.get("stream_options")
    wanted = options.get("include_usage") if isinstance(options, dict) else None
    return ChatRequest(
        model=model,
        messages=linked(_message(m, i) for i, m in enumerate(messages)),
        stream=data.get("stream") is True,
        include_usage=wanted if isinstance(wanted, bool) else None,
        max_tokens=whole(limit),
        how=options_of(data),
        extra=data,
    )


def _message(message: object, i: int) -> Message:
    if not isinstance(message, dict):
        raise BadRequest(f"messages[{i}] must be an object with `role` and `content`")
    role = role_of(message)
    if role is None:
        raise BadRequest(f"messages[{i}].role must be system, user, assistant or tool")
    return turn(role, content_text(message.get("content"), f"messages[{i}].content"), message)


def annotations(answer: str, citations: tuple[Citation, ...], urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """OpenAI's url_citation annotations; indices are those of the first `[n]` in the answer."""
    return [{"type": "url_citation", "url_citation": span} for span in spans(answer, citations, urls)]


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` with every field that some client indexes unguarded."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_tokens_details": {"cached_tokens": 0},
    }


class Completion:
    """One answer on the wire: turns events into frames, or into one body."""

    def __init__(
        self,
        request: ChatRequest,
        urls: Mapping[str, str],
        *,
        form: ReasoningForm = "reasoning_content",
        source_events: bool = False,
        language: Language = "en",
    ) -> None:
        self.request = request
        #: resolvable address of each chunk, filled when the sources come
        self.urls = urls
        self.id = "chatcmpl-" + os.urandom(12).hex()
        self.created = int(time.time())
        self.hits: tuple[Hit, ...] = ()
        self._out = ReasoningOut(form)
        self._source_events = source_events
        self._language = language
        self._sources_sent = False
        #: the request spoke of functions, and so does the answer: of one at most
        self._functions = is_legacy(request.extra)

    def _frame(self, delta: dict[str, Any], finish: str | None = None, **root: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._data({"choices": [choice], **root})

    def _data(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps({**self._head(), **fields}) + b"\n\n"

    def _head(self) -> dict[str, Any]:
        model = self.request.model
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}

    def frames(self, event: Event) -> list[bytes]:
        """The frames one event becomes."""
        if isinstance(event, Sources):
            self.hits = event.hits
            return self._source_frames() if self._source_events else []
        if isinstance(event, Finish):
            return self._last_frames(event)
        if isinstance(event, ToolCallPiece):
            delta = self._call_delta(event)
            return [self._frame(each) for each in (*self._out.close(), *([delta] if delta else []))]
        deltas = self._out.deltas(event)
        root: dict[str, Any] = {}
        if deltas and isinstance(event, Text) and self.hits and not self._sources_sent:
            self._sources_sent = True
            root["search_results"] = search_results(self.hits, self.urls)
        return [*map(self._frame, deltas[:-1]), *(self._frame(delta, **root) for delta in deltas[-1:])]

    def _call_delta(self, piece: ToolCallPiece) -> dict[str, Any]:
        function = {**({"name": piece.name} if piece.name else {}), "arguments": piece.arguments}
        if self._functions:
            return {"function_call": function} if piece.index == 0 else {}
        first = {"id": piece.id, "type": "function"} if piece.id else {}
        return {"tool_calls": [{"index": piece.index, **first, "function": function}]}

    def _reason(self, finish: Finish) -> str:
        return "function_call" if self._functions and finish.reason == "tool_calls" else finish.reason

    def _source_frames(self) -> list[bytes]:
        cards = [source(hit, self.urls) for hit in self.hits]
        found = status(FOUND[self._language].format(len(self.hits)), done=True)
        return [self._data({"choices": [], "event": event}) for event in (*cards, found)]

    def _last_frames(self, finish: Finish) -> list[bytes]:
        closing = [self._frame(delta) for delta in self._out.close()]
        notes = annotations(self._out.answer(), finish.citations, self.urls)
        root: dict[str, Any] = {"warnings": list(finish.warnings)} if finish.warnings else {}
        if self.request.include_usage is None:
            root["usage"] = usage_body(finish.usage)
        frames = [*closing, self._frame({"annotations": notes} if notes else {}, self._reason(finish), **root)]
        if self.request.include_usage:
            frames.append(self._data({"choices": [], "usage": usage_body(finish.usage)}))
        return [*frames, DONE]

    def opening(self) -> bytes:
        """The frames that open a streamed answer."""
        role = self._frame({"role": "assistant", "content": ""})
        if not self._source_events:
            return role
        return role + self._data({"choices": [], "event": status(SEARCHING[self._language], done=False)})

    def waiting(self) -> bytes:
        """A line of thinking that says what is waited for; a comment where the client is shown no thinking apart."""
        form = self._out.form
        return self._frame({form: WAITING[self._language]}) if form.startswith("reasoning") else KEEP_ALIVE

    def relayed(self) -> Frames | None:
        """What the frames of the answer are made of; None where a frame has to be made of each delta."""
        form = self._out.form
        if form == "think_tags":
            return None
        first = {"search_results": search_results(self.hits, self.urls)} if self.hits else None
        return Frames(self._head(), first, "" if form == "none" else form)

    def note_relayed(self, answer: Sequence[str]) -> None:
        """Take the answer's text that was sent in frames like these."""
        self._out.note(answer)
        self._sources_sent = self._sources_sent or bool(answer)

    @staticmethod
    def error(error: RagError) -> bytes:
        """The frame of an error after the start; nothing follows it."""
        detail = {"message": str(error), "type": "server_error", "param": None, "code": error.code}
        return b"data: " + orjson.dumps({"error": detail}) + b"\n\n"

    async def body(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        finish, text, reasoning, calls = Finish(), [], [], ToolCalls()
        async for event in events:
            if isinstance(event, Sources):
                self.hits = event.hits
            elif isinstance(event, Reasoning):
                reasoning.append(event.text)
            elif isinstance(event, Text):
                text.append(event.text)
            elif isinstance(event, ToolCallPiece):
                calls.add(event)
            else:
                finish = event
        message = {"role": "assistant", **self._out.message("".join(reasoning), "".join(text))}
        if made := openai_calls(calls.whole()):
            message |= {"function_call": made[0]["function"]} if self._functions else {"tool_calls": made}
        if finish.citations:
            message["annotations"] = annotations(self._out.answer(), finish.citations, self.urls)
        choice = {"index": 0, "message": message, "finish_reason": self._reason(finish), "logprobs": None}
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.request.model}
        found = {"search_results": search_results(self.hits, self.urls)} if self.hits else {}
        warned = {"warnings": list(finish.warnings)} if finish.warnings else {}
        return {**head, "choices": [choice], "usage": usage_body(finish.usage), **found, **warned}
