"""The token path: a model server's bytes become a client's bytes, without JSON where the shape is known.

Decoding and encoding an event costs about 10 µs; copying the JSON string out of it under our own frame costs about 1.
A server's events differ only in their text. So of the first event that was parsed in full the bytes before and after
the text are kept, and an event that begins and ends with them is that text. Whatever needs a look (a tag, a citation,
an escaped quote, another shape) is parsed in full, by the same parsers as everywhere else. What went by unparsed is
caught up with first, so that both ways give the same frames for every input (tests/unit/test_stream.py).
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from connectors.upstream import MAX_EVENT, Answer, event_data
from pipelines.citations import CitationParser
from pipelines.delta import Delta
from pipelines.errors import ModelUnavailable
from pipelines.reasoning import ReasoningParser
from pipelines.types import Citation, Hit, Reasoning

#: events copied unparsed before the parsers are caught up with
LAG = 512
DONE = b"[DONE]"

#: what may begin a citation, as it is written in JSON
_MARKS = (b"[", b"\xe3\x80\x90", b"\\u3010")
_TEXT_FIELD = re.compile(rb'"(?:content|reasoning|reasoning_content|thinking)"\s*:\s*\Z')


class Shape:
    """The bytes of a server's events around their text."""

    __slots__ = ("after", "before", "least")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.least = len(before) + len(after)

    def text(self, event: bytes) -> bytes | None:
        """The text of an event of this shape, as written in JSON; None if it has another shape or needs a look."""
        if len(event) < self.least or not event.startswith(self.before) or not event.endswith(self.after):
            return None
        text = event[len(self.before) : len(event) - len(self.after)]
        return None if b'"' in text or text.endswith(b"\\") else text


class Relay:
    """One answer on its way: feed it upstream bytes, send on what it returns; then ask how it ended.

    `read` reads one event's JSON (`Engine.read`), `root` is what stands in each frame beside `choices` (id, object,
    created, model), `first` is added to the first frame of the answer itself (search results).
    """

    __slots__ = (
        "_answer_head",
        "_buffer",
        "_citing",
        "_content",
        "_end",
        "_field",
        "_first",
        "_head",
        "_lag",
        "_parser",
        "_read",
        "_ready",
        "_seen",
        "_think_head",
        "_thought",
        "answer",
        "ended",
        "reason",
        "reasoning_events",
        "thoughts",
        "usage",
    )

    def __init__(
        self,
        root: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Delta],
        *,
        starts_in_thinking: bool = False,
        hits: Sequence[Hit] = (),
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self._head = b"data: " + orjson.dumps(root)[:-1] + b',"choices":[{"index":0,"delta":{'
        self._end = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._think_head = self._head + b'"reasoning_content":"'
        self._answer_head = self._head + b'"content":"'
        self._first = orjson.dumps(first)[1:-1] if first else b""
        self._read = read
        self._parser = ReasoningParser(starts_in_thinking=starts_in_thinking)
        self._citing = CitationParser(hits) if hits else None
        self._buffer = b""
        self._content: Shape | None = None  # of events with text in `content`
        self._field: Shape | None = None  # of events with text in a field for thinking
        self._lag: list[bytes] = []  # texts that went by unparsed, all thinking or all answer
        self._seen: list[bytes] = []  # thinking from a field that went by unparsed
        self._ready = False  # no half tag, half mark or leading white space keeps a parser waiting
        self._thought = False
        #: the answer's text and the thinking, in pieces; whole after `finish`
        self.answer: list[str] = []
        self.thoughts: list[str] = []
        #: events that brought thinking: about its tokens
        self.reasoning_events = 0
        #: the server has said that this was all
        self.ended = False
        self.reason = ""
        self.usage: dict[str, Any] | None = None

    def start(self) -> bytes:
        """The frame that opens an answer."""
        return self._head + b'"role":"assistant","content":""' + self._end

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes, return the frames that are complete. Raises ModelUnavailable for an error event."""
        buffer = self._buffer + data if self._buffer else data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *blocks, self._buffer = buffer.split(b"\n\n")
        if len(self._buffer) > MAX_EVENT:
            raise ModelUnavailable("the model server sent an event without an end")
        if len(blocks) == 1:
            return self._block(blocks[0])
        return b"".join([self._block(block) for block in blocks])

    def finish(self) -> bytes:
        """Take the end of the stream, return what was held back."""
        frames = [self._block(self._buffer)] if self._buffer else []
        self._buffer = b""
        self._catch_up()
        frames += [self._piece(isinstance(p, Reasoning), p.text) for p in self._parser.close()]
        if not self.answer and self.reason == "stop" and (rescued := self._parser.rescue()):
            frames.append(self._piece(False, rescued))
        if self._citing is not None and (rest := self._citing.close()):
            self.answer.append(rest)
            frames.append(self._frame(self._answer_head, rest))
        return b"".join(frames)

    def citations(self) -> tuple[Citation, ...]:
        """The passages cited, resolved."""
        return self._citing.citations() if self._citing else ()

    def answered(self) -> bool:
        """Whether anything of the answer itself was sent."""
        return bool(self.answer) or (bool(self._lag) and not self._parser.thinking)

    def _block(self, block: bytes) -> bytes:
        event = block[6:] if block.startswith(b"data: ") and b"\n" not in block else event_data(block)
        shape = self._content
        if shape is not None and self._ready and (text := shape.text(event)) is not None:
            thinking = self._parser.thinking
            if self._plain(text, thinking):
                return self._copy(text, thinking)
        shape = self._field
        apart = self._thought and not self._parser.thinking  # else the parser must be told that thinking comes apart
        if shape is not None and apart and (text := shape.text(event)) is not None:
            self.reasoning_events += 1
            self._seen.append(text)
            return self._think_head + text + b'"' + self._end
        return self._parse(event) if event else b""

    def _plain(self, text: bytes, thinking: bool) -> bool:
        """Whether no parser would want to see this text."""
        if b"<" in text or b"\\u00" in text:
            return False
        if self._citing is None or thinking:
            return True
        return not (text.endswith((b" ", b"\\t")) or any(mark in text for mark in _MARKS))

    def _copy(self, text: bytes, thinking: bool) -> bytes:
        self._lag.append(text)
        if len(self._lag) >= LAG:
            self._catch_up()
        if thinking:
            self.reasoning_events += 1
            return self._think_head + text + b'"' + self._end
        return self._answer_head + text + b'"' + self._end

    def _catch_up(self) -> None:
        """Show the parsers what went by, so that they know where they are."""
        if self._seen:
            self.thoughts.append(_decoded(b"".join(self._seen)))
            self._seen.clear()
        if not self._lag:
            return
        text = _decoded(b"".join(self._lag))
        self._lag.clear()
        pieces = self._parser.feed(text)
        (self.thoughts if isinstance(pieces[0], Reasoning) else self.answer).append(text)
        if self._citing is not None and not isinstance(pieces[0], Reasoning):
            self._citing.feed(text)

    def _parse(self, event: bytes) -> bytes:
        """An event in full."""
        if event == DONE:
            self.ended = True
            return b""
        self._catch_up()
        try:
            found = orjson.loads(event)
            delta = self._read(found)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            raise ModelUnavailable(
                f"the model server sent something that is no event: {event[:120].decode('utf-8', 'replace')!r}"
            ) from None
        if delta.error:
            raise ModelUnavailable(f"the model server failed while answering: {delta.error}")
        self._learn(event, delta)
        if delta.finish_reason:
            self.reason, self.ended = delta.finish_reason, True
        self.usage = delta.usage or self.usage
        frames: list[bytes] = []
        if delta.reasoning:
            self._parser.separated()
            frames.append(self._piece(True, delta.reasoning))
        if delta.content:
            frames += [self._piece(isinstance(p, Reasoning), p.text) for p in self._parser.feed(delta.content)]
        waits = self._parser.waits() or (self._citing is not None and self._citing.waits())
        self._ready = not waits and (self._parser.thinking or not self._first)
        return b"".join(frames)

    def _piece(self, thinking: bool, text: str) -> bytes:
        """The frame of a piece, b"" if nothing of it is to be shown yet."""
        if thinking:
            text = text if self._thought else text.lstrip()
            if not text:
                return b""
            self._thought = True
            self.reasoning_events += 1
            self.thoughts.append(text)
            return self._frame(self._think_head, text)
        if self._citing is not None:
            text = self._citing.feed(text)
        if not text:
            return b""
        self.answer.append(text)
        return self._frame(self._answer_head, text)

    def _frame(self, head: bytes, text: str) -> bytes:
        end = self._end
        if self._first and head is self._answer_head:
            end = end[:-3] + b"," + self._first + b"}\n\n"
            self._first = b""
        return head + orjson.dumps(text)[1:] + end

    def _learn(self, event: bytes, delta: Delta) -> None:
        """Keep the shape of an event that has one text and nothing else."""
        text = delta.content or delta.reasoning
        if not text or (delta.content and delta.reasoning) or delta.finish_reason or delta.tool_calls or delta.usage:
            return
        written = orjson.dumps(text)
        before, _, after = event.partition(written)
        if not _TEXT_FIELD.search(before) or written in after or b"\n" in event:
            return
        shape = Shape(before + b'"', b'"' + after)
        if delta.content:
            self._content = shape
        else:
            self._field = shape


async def pump(answer: Answer, relay: Relay, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Relay a whole answer to `send`, which waits when its client is slow. Raises what the server does wrong.

    Whatever came while `send` waited goes out in one piece. Leaving early (cancelled) is the caller's `async with`.
    """
    while data := await answer.read():
        if frames := relay.feed(data):
            await send(frames)
        if relay.ended and relay.usage is not None:
            break
    if frames := relay.finish():
        await send(frames)


def _decoded(text: bytes) -> str:
    """Text as written in JSON, read."""
    if b"\\" not in text:
        return text.decode("utf-8", "replace")
    decoded: str = orjson.loads(b'"' + text + b'"')
    return decoded
