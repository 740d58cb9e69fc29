"""`POST /v1/completions`, the older form: prompts in, text out. It has no place for thinking, which is left out.

Source: platform.openai.com/docs/api-reference/completions.
"""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from connectors.asking import options_of
from connectors.bodies import dumps, json_object, text_list, whole
from pipelines.errors import BadRequest, RagError
from pipelines.events import Lookahead, with_silence
from pipelines.turn import Options
from pipelines.types import Event, Finish, Text, Usage

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_AFTER = 12.0
#: prompts of one request; they are answered one after the other
MOST_PROMPTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What of a request matters; everything else is taken and ignored."""

    model: str
    prompts: list[str]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    how: Options = field(default_factory=Options)
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_completion(body: bytes) -> CompletionRequest:
    """Read a request body. Raises BadRequest."""
    data = json_object(body, "`model` and `prompt`")
    model, options = data.get("model"), data.get("stream_options")
    if not isinstance(model, str) or not model:
        raise BadRequest("`model` must be a string; GET /v1/models lists the ids")
    prompts = text_list(data.get("prompt"), "prompt")
    if len(prompts) > MOST_PROMPTS:
        raise BadRequest(f"`prompt` has {len(prompts)} prompts; at most {MOST_PROMPTS} go into one request")
    return CompletionRequest(
        model=model,
        prompts=prompts,
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=whole(data.get("max_tokens")),
        how=replace(options_of(data), tools=None),
        extra=data,
    )


class TextCompletion:
    """One answer on the wire; its events come as one stream for each prompt."""

    def __init__(self, request: CompletionRequest) -> None:
        self.request = request
        self.id = "cmpl-" + secrets.token_hex(12)
        self.created = int(time.time())
        self._usage = Usage()
        self._warnings: list[str] = []

    def _body(self, choices: list[dict[str, Any]], **root: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.request.model}
        return {**head, "choices": choices, **root}

    def _frame(self, choices: list[dict[str, Any]], **root: Any) -> bytes:
        return b"data: " + dumps(self._body(choices, **root)) + b"\n\n"

    def _count(self, finish: Finish) -> None:
        usage = finish.usage
        self._warnings += [warning for warning in finish.warnings if warning not in self._warnings]
        self._usage = Usage(
            prompt=self._usage.prompt + usage.prompt,
            completion=self._usage.completion + usage.completion,
            reasoning=self._usage.reasoning + usage.reasoning,
        )

    def usage(self) -> dict[str, Any]:
        """`usage` of all prompts together."""
        prompt, completion = self._usage.prompt, self._usage.completion
        details = {"reasoning_tokens": self._usage.reasoning}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": details,
        }

    async def stream(self, answers: Sequence[Lookahead]) -> AsyncIterator[bytes]:
        """Every frame of a streamed answer. An error after the start is one error frame."""
        try:
            for index, events in enumerate(answers):
                async with aclosing(with_silence(events, KEEP_ALIVE_AFTER)) as watched:
                    async for event in watched:
                        for frame in [KEEP_ALIVE] if event is None else self._frames(index, event):
                            yield frame
        except RagError as error:
            detail = {"message": str(error), "type": "server_error", "param": None, "code": error.code}
            yield b"data: " + dumps({"error": detail}) + b"\n\n"
            return
        if self.request.include_usage:
            yield self._frame([], usage=self.usage())
        yield DONE

    def _frames(self, index: int, event: Event) -> list[bytes]:
        if isinstance(event, Text) and event.text:
            return [self._frame([choice(index, event.text, None)])]
        if not isinstance(event, Finish):
            return []
        self._count(event)
        last = index == len(self.request.prompts) - 1
        root = {"usage": self.usage()} if last and not self.request.include_usage else {}
        if last:
            root |= self._warned()
        return [self._frame([choice(index, "", event.reason)], **root)]

    async def body(self, answers: Sequence[AsyncIterator[Event]]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = []
        for index, events in enumerate(answers):
            text, finish = [], Finish()
            async for event in events:
                if isinstance(event, Text):
                    text.append(event.text)
                elif isinstance(event, Finish):
                    finish = event
            self._count(finish)
            choices.append(choice(index, "".join(text), finish.reason))
        return self._body(choices, usage=self.usage(), **self._warned())

    def _warned(self) -> dict[str, Any]:
        return {"warnings": self._warnings} if self._warnings else {}


def choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    """One entry of `choices`."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
