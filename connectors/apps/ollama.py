"""Ollama's protocol as Open WebUI, Dify, n8n and the ollama SDKs speak it: requests in, lines of JSON out.

Source: github.com/ollama/ollama docs/api.md and server/routes.go. One object a line; thinking in a field of its own;
durations are whole nanoseconds; there are no comments, so that silence is filled with frames of empty content.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from connectors.asking import options_of
from connectors.bodies import content_text, dumps, json_object, role_of, whole
from connectors.tools import linked, ollama_calls, turn
from pipelines.errors import BadRequest, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.tools import ToolCalls
from pipelines.turn import Options
from pipelines.types import Event, Finish, Message, Reasoning, Text, ToolCallPiece

#: what clients compare their features with; the protocol is the one of this release
VERSION = "0.12.6"
#: seconds without a frame before an empty one is sent
KEEP_ALIVE_AFTER = 12.0
TAG = ":latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaRequest:
    """What of a `POST /api/chat` or `/api/generate` matters; other fields are taken and ignored."""

    kind: Literal["chat", "generate"]
    model: str
    #: empty: the client only wants the model loaded, or unloaded
    messages: tuple[Message, ...]
    stream: bool = True
    #: None where the client says nothing: thinking, apart from the answer
    think: bool | None = None
    max_tokens: int | None = None
    how: Options = field(default_factory=Options)
    unload: bool = False
    #: every parameter sent, those of `options` too
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_chat(body: bytes) -> OllamaRequest:
    """Read `POST /api/chat`. Raises BadRequest."""
    data = json_object(body, "`model` and `messages`")
    messages = data.get("messages") or []
    if not isinstance(messages, list):
        raise BadRequest("`messages` must be a list")
    return _request(data, "chat", linked(_message(message, i) for i, message in enumerate(messages)))


def parse_generate(body: bytes) -> OllamaRequest:
    """Read `POST /api/generate`. Raises BadRequest."""
    data = json_object(body, "`model` and `prompt`")
    prompt, system = data.get("prompt") or "", data.get("system") or ""
    if not isinstance(prompt, str) or not isinstance(system, str):
        raise BadRequest("`prompt` and `system` must be strings")
    _refuse_images(data)
    messages = [Message(role="system", content=system)] if system else []
    return _request(data, "generate", (*messages, Message(role="user", content=prompt)) if prompt else ())


def _request(
    data: Mapping[str, Any], kind: Literal["chat", "generate"], messages: tuple[Message, ...]
) -> OllamaRequest:
    options = data.get("options")
    options = options if isinstance(options, dict) else {}
    think, keep_alive = data.get("think"), data.get("keep_alive")
    how = options_of(data, options)
    if isinstance(keep_alive, str | int | float) and not isinstance(keep_alive, bool):
        how = replace(how, keep_alive=keep_alive)
    return OllamaRequest(
        kind=kind,
        model=model_name(data),
        messages=messages,
        stream=data.get("stream") is not False,
        think=think if think is None or isinstance(think, bool) else think not in ("", "none", "false"),
        max_tokens=whole(options.get("num_predict")),
        how=how if kind == "chat" else replace(how, tools=None),
        unload=keep_alive in (0, "0", "0s"),
        extra={**options, **data},
    )


def model_name(data: Mapping[str, Any]) -> str:
    """The model named by `model`, or by `name` as older clients do, without `:latest`. Raises BadRequest."""
    name = data.get("model") or data.get("name")
    if not isinstance(name, str) or not name:
        raise BadRequest("model is required; GET /api/tags lists the names")
    return name.removesuffix(TAG)


def _message(message: object, i: int) -> Message:
    role = role_of(message) if isinstance(message, dict) else None
    if not isinstance(message, dict) or role is None:
        raise BadRequest(f"messages[{i}] must be an object with a role: system, user, assistant or tool")
    _refuse_images(message)
    return turn(role, content_text(message.get("content"), f"messages[{i}].content"), message)


def _refuse_images(data: Mapping[str, Any]) -> None:
    if data.get("images"):
        raise BadRequest("images are not supported by this model")


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as Ollama writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Answer:
    """One answer on the wire: turns events into lines, or into one body."""

    def __init__(self, request: OllamaRequest) -> None:
        self.request = request
        self._began = time.perf_counter_ns()
        self._first = 0
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls = ToolCalls()

    def _fields(self, content: str = "", thinking: str = "", done: bool = False) -> dict[str, Any]:
        head = {"model": self.request.model, "created_at": rfc3339(time.time())}
        if self.request.kind == "generate":
            piece: dict[str, Any] = {"response": content}
        else:
            piece = {"message": {"role": "assistant", "content": content}}
        if thinking:
            (piece if self.request.kind == "generate" else piece["message"])["thinking"] = thinking
        return {**head, **piece, "done": done}

    def _line(self, content: str = "", thinking: str = "") -> bytes:
        return dumps(self._fields(content, thinking)) + b"\n"

    def last(self, finish: Finish | None, reason: str = "", content: str = "", thinking: str = "") -> dict[str, Any]:
        """The frame that ends an answer, or the whole body of one that is not streamed."""
        now = time.perf_counter_ns()
        first = self._first or now
        counts: dict[str, Any] = {
            "total_duration": now - self._began,
            "load_duration": 0,
            "prompt_eval_count": finish.usage.prompt if finish else 0,
            "prompt_eval_duration": first - self._began,
            "eval_count": finish.usage.completion if finish else 0,
            "eval_duration": now - first,
        }
        stopped = reason or ("length" if finish and finish.reason == "length" else "stop")
        fields = {**self._fields(content, thinking, done=True), "done_reason": stopped, **counts}
        if not self.request.stream and self.calls and self.request.kind == "chat":
            fields["message"]["tool_calls"] = ollama_calls(self.calls.whole())
        if finish and finish.warnings:
            fields["warnings"] = list(finish.warnings)
        return fields | {"context": []} if self.request.kind == "generate" else fields

    def take(self, event: Event) -> Finish | None:
        """Note one event; the Finish, if it is one."""
        if isinstance(event, Finish):
            return event
        if isinstance(event, ToolCallPiece):
            self.calls.add(event)
        if isinstance(event, Text | Reasoning):
            self._first = self._first or time.perf_counter_ns()
            if isinstance(event, Text):
                self.text.append(event.text)
            elif self.request.think is not False:
                self.reasoning.append(event.text)
        return None

    def lines(self, event: Event) -> list[bytes]:
        """The lines one event becomes."""
        if finish := self.take(event):
            return [*self._call_lines(), dumps(self.last(finish)) + b"\n"]
        if isinstance(event, Text) and event.text:
            return [self._line(event.text)]
        if isinstance(event, Reasoning) and event.text and self.request.think is not False:
            return [self._line(thinking=event.text)]
        return []

    def _call_lines(self) -> list[bytes]:
        """A line with the calls, whole as Ollama has them: their pieces are no JSON."""
        if not self.calls or self.request.kind != "chat":
            return []
        fields = self._fields()
        fields["message"]["tool_calls"] = ollama_calls(self.calls.whole())
        return [dumps(fields) + b"\n"]

    async def stream(self, events: Lookahead) -> AsyncIterator[bytes]:
        """Every line of a streamed answer. An error after the start is shown as text: Dify drops lines with `error`."""
        try:
            async with aclosing(with_silence(events, KEEP_ALIVE_AFTER)) as watched:
                async for event in watched:
                    for line in [self._line()] if event is None else self.lines(event):
                        yield line
        except RagError as error:
            yield self._line(f"\n\n[{error}]")
            yield dumps(self.last(None, "error")) + b"\n"

    async def body(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        finish = None
        async for event in events:
            finish = self.take(event) or finish
        return self.last(finish, "", "".join(self.text), "".join(self.reasoning))

    def loaded(self) -> dict[str, Any]:
        """The answer to a request without a question, by which clients load or unload a model."""
        return self.last(None, "unload" if self.request.unload else "load")


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """A model as Ollama lists it."""

    id: str
    architecture: str
    #: bytes of its weights, 0 if they are elsewhere
    size: int
    #: e.g. "7.6B", "" if unknown
    parameters: str
    quantization: str
    context: int
    #: seconds since 1970
    modified: float
    thinks: bool
    tools: bool = False
    #: numbers of a vector, for an embedding model
    embeds: int = 0

    @property
    def name(self) -> str:
        """Its name with a tag, as Ollama always has one."""
        return self.id if ":" in self.id else self.id + TAG

    def details(self) -> dict[str, Any]:
        """`details`, in every list of models."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.architecture,
            "families": [self.architecture],
            "parameter_size": self.parameters,
            "quantization_level": self.quantization,
        }

    def _entry(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.id.encode()).hexdigest()
        return {"name": self.name, "model": self.name, "size": self.size, "digest": digest, "details": self.details()}

    def tag(self) -> dict[str, Any]:
        """Its entry in `GET /api/tags`."""
        return {**self._entry(), "modified_at": rfc3339(self.modified)}

    def running(self) -> dict[str, Any]:
        """Its entry in `GET /api/ps`: always loaded."""
        expires = rfc3339(time.time() + 86400)
        return {**self._entry(), "expires_at": expires, "size_vram": 0, "context_length": self.context}

    def show(self) -> dict[str, Any]:
        """The answer to `POST /api/show`."""
        return {
            "license": "",
            "modelfile": f"FROM {self.name}\n",
            "parameters": f"num_ctx                        {self.context}",
            "template": "{{ .Prompt }}",
            "details": self.details(),
            "model_info": {
                "general.architecture": self.architecture,
                "general.basename": self.id,
                f"{self.architecture}.context_length": self.context,
                **({f"{self.architecture}.embedding_length": self.embeds} if self.embeds else {}),
            },
            "capabilities": (
                ["embedding"] if self.embeds else ["completion", *["thinking"] * self.thinks, *["tools"] * self.tools]
            ),
            "modified_at": rfc3339(self.modified),
        }
