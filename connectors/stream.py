"""The token path: a model server's bytes become a client's bytes, without JSON where the shape is known.

Decoding and encoding an event costs about 10 µs; copying the JSON string out of it under our own frame costs about 1.
A server's events differ only in their text. So of the first event that was parsed in full the bytes before and after
the text are kept, and an event that begins and ends with them is that text: what the next one will be is made ready as
a `Lane`. Whatever needs a look (a tag, a citation, an escaped quote, another shape) is parsed in full, by the same
parsers as everywhere else, which are caught up with first: both ways give the same frames (tests/unit/test_stream.py).
"""

import math
from collections.abc import Callable
from typing import Any

import orjson

from connectors.frames import Frames
from connectors.shape import Lane, Shape, decoded, may_cite, shape_of
from connectors.upstream import MAX_EVENT, event_data
from pipelines.budget import ascii_tokens, piece_tokens
from pipelines.citations import CitationParser
from pipelines.delta import Delta
from pipelines.drift import LanguageGuard
from pipelines.errors import ModelUnavailable, RagError
from pipelines.reasoning import ReasoningParser
from pipelines.types import Reasoning

#: events copied unparsed before the parsers are caught up with
LAG = 512
#: the same where the answer's language is watched
SAMPLE = 48
DONE = b"[DONE]"


class Relay:
    """One answer on its way: feed it upstream bytes, send on what it returns; then ask how it ended.

    `read` reads one event's JSON (`Engine.read`), `failed` makes the error of an error event. After `limit` tokens
    of thinking the relay is `over`.
    """

    __slots__ = (
        "_answer_head", "_buffer", "_citing", "_content", "_failed", "_failure", "_field", "_first", "_frames",
        "_guard", "_lag", "_lag_limit", "_lane", "_limit", "_parser", "_read", "_ready", "_seen", "_tail",
        "_think_head", "_thought", "answer", "cut", "ended", "over", "reason", "separated", "thought_tokens",
        "thoughts", "usage",
    )  # fmt: skip

    def __init__(
        self,
        frames: Frames,
        read: Callable[[dict[str, Any]], Delta],
        *,
        starts_in_thinking: bool = False,
        citing: CitationParser | None = None,
        guard: LanguageGuard | None = None,
        limit: float = math.inf,
        failed: Callable[[dict[str, Any], str], RagError] | None = None,
    ) -> None:
        self._frames = frames
        self._tail, self._think_head, self._answer_head = frames.tail, frames.think_head, frames.answer_head
        self._first = frames.first
        self._read, self._failed = read, failed
        self._parser = ReasoningParser(starts_in_thinking=starts_in_thinking)
        self._citing, self._guard = citing, guard
        self._buffer = b""
        self._content: Shape | None = None  # of events with text in `content`
        self._field: Shape | None = None  # of events with text in a field for thinking
        self._lane: Lane | None = None  # what the next event is expected to be
        self._lag: list[bytes] = []  # texts that went by unparsed, all thinking or all answer
        self._lag_limit = LAG if guard is None else SAMPLE
        self._seen: list[bytes] = []  # thinking from a field that went by unparsed
        self._ready = False  # nothing keeps a parser waiting: half tag, half mark, leading white space
        self._thought = False
        self._limit = limit
        self._failure: RagError | None = None
        #: the answer's text and the thinking, in pieces; whole after `finish`
        self.answer: list[str] = []
        self.thoughts: list[str] = []
        self.thought_tokens = 0
        #: thinking came in a field of its own
        self.separated = False
        #: the server has said that this was all
        self.ended = False
        #: thinking has met its limit
        self.cut = False
        #: nothing more is wanted from the server
        self.over = False
        self.reason = ""
        self.usage: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes, return the frames that are complete. Raises ModelUnavailable for an error event."""
        lane = self._lane
        if lane is not None and not self._buffer and (text := lane.text(data)):
            lane.seen.append(text)
            if lane.counts:
                self._count(text)
            if len(lane.seen) >= self._lag_limit:
                self._catch_up()
            return lane.head + text + self._tail if lane.head else b""
        return self._feed_blocks(data)

    def _feed_blocks(self, data: bytes) -> bytes:
        buffer = self._buffer + data if self._buffer else data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *blocks, self._buffer = buffer.split(b"\n\n")
        if len(self._buffer) > MAX_EVENT:
            raise ModelUnavailable("the model server sent an event without an end")
        if len(blocks) == 1:
            return self._block(blocks[0])
        frames: list[bytes] = []
        try:
            for block in blocks:
                frames.append(self._block(block))
                if self.over:
                    break
        except RagError as error:
            if not any(frames):
                raise
            self._failure, self.over = error, True  # what came before it is shown first
        return b"".join(frames)

    def finish(self) -> bytes:
        """Take the end of the stream, return what was held back. Raises the error that `feed` came upon."""
        if self._failure is not None:
            raise self._failure
        frames = [self._block(self._buffer)] if self._buffer and not self.over else []
        self._buffer = b""
        self._catch_up()
        if self.cut:
            return b"".join(frames)
        frames += [self._piece(isinstance(p, Reasoning), p.text) for p in self._parser.close()]
        if not self.answer and self.reason == "stop" and (rescued := self._parser.rescue()):
            frames.append(self._piece(False, rescued))
        if not self._drifted():
            rest = self._guard.close() if self._guard is not None else ""
            if self._citing is not None:
                rest = self._citing.feed(rest) + self._citing.close()
            if rest:
                self.answer.append(rest)
                frames.append(self._frame(self._answer_head, rest))
        return b"".join(frames)

    def begun(self) -> bool:
        """Whether anything was sent."""
        return bool(self._thought or self.answer or self._lag)

    def _drifted(self) -> bool:
        return self._guard is not None and bool(self._guard.drifted)

    def _block(self, block: bytes) -> bytes:
        event = block[6:] if block.startswith(b"data: ") and b"\n" not in block else event_data(block)
        shape, thinking = self._content, self._parser.thinking
        if (
            shape is not None
            and self._ready
            and (text := shape.text(event)) is not None
            and not (b"<" in text or b"\\u00" in text)
            and (thinking or self._citing is None or not may_cite(text))
        ):
            return self._copy(text, thinking)
        shape = self._field
        apart = self._thought and not thinking  # else the parser must be told that thinking comes apart
        if shape is not None and apart and (text := shape.text(event)) is not None:
            return self._think(text)
        return self._parse(event) if event else b""

    def _copy(self, text: bytes, thinking: bool) -> bytes:
        self._lag.append(text)
        if thinking:
            self._count(text)
        if len(self._lag) >= self._lag_limit:
            self._catch_up()
        if not thinking:
            return self._answer_head + text + self._tail
        return self._think_head + text + self._tail if self._think_head else b""

    def _think(self, text: bytes) -> bytes:
        self._seen.append(text)
        self._count(text)
        return self._think_head + text + self._tail if self._think_head else b""

    def _count(self, text: bytes) -> None:
        """Count tokens of thinking, as pipelines.generate does."""
        if b"\\" in text or not text.isascii():
            self.thought_tokens += piece_tokens(decoded(text))
        else:
            self.thought_tokens += ascii_tokens(len(text))
        if self.thought_tokens >= self._limit:
            self.cut = self.over = True

    def _catch_up(self) -> None:
        """Show the parsers what went by, so that they know where they are."""
        if self._seen:
            self.thoughts.append(decoded(b"".join(self._seen)))
            self._seen.clear()
        if not self._lag:
            return
        text = decoded(b"".join(self._lag))
        self._lag.clear()
        if isinstance(self._parser.feed(text)[0], Reasoning):
            self.thoughts.append(text)
            return
        if self._guard is not None:
            self._guard.feed(text)
            self.over = self.over or self._drifted()
        if self._citing is not None:
            self._citing.feed(text)
        self.answer.append(text)

    def _parse(self, event: bytes) -> bytes:
        """An event in full."""
        if event == DONE:
            self.ended = self.over = True
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
            if self._failed is not None:
                raise self._failed(found, delta.error)
            raise ModelUnavailable(f"the model server failed while answering: {delta.error}")
        self._learn(event, delta)
        self.usage = delta.usage or self.usage
        if delta.finish_reason:
            self.reason, self.ended = delta.finish_reason, True
        frames: list[bytes] = []
        if delta.reasoning:
            self.separated = True
            self._parser.separated()
            frames.append(self._piece(True, delta.reasoning))
        if delta.content:
            frames += [self._piece(isinstance(p, Reasoning), p.text) for p in self._parser.feed(delta.content)]
        self._ready = not self._parser.waits() and (self._parser.thinking or not self._answer_waits())
        self._lane = self._expected(delta)
        self.over = self.over or (self.ended and self.usage is not None)
        return b"".join(frames)

    def _answer_waits(self) -> bool:
        """Whether the next text of the answer may come out otherwise than it goes in."""
        if self._first or (self._citing is not None and self._citing.waits()):
            return True
        return self._guard is not None and self._guard.waits()

    def _piece(self, thinking: bool, text: str) -> bytes:
        """The frame of a piece, b"" if nothing of it is to be shown yet."""
        if thinking:
            text = text if self._thought else text.lstrip()
            if not text:
                return b""
            self._thought = True
            self.thoughts.append(text)
            self.thought_tokens += piece_tokens(text)
            if self.thought_tokens >= self._limit:
                self.cut = self.over = True
            return self._frame(self._think_head, text) if self._think_head else b""
        if self._guard is not None and not self._drifted():
            text = self._guard.feed(text)
            self.over = self.over or self._drifted()
        if self._citing is not None:
            text = self._citing.feed(text)
        if not text:
            return b""
        self.answer.append(text)
        return self._frame(self._answer_head, text)

    def _frame(self, head: bytes, text: str) -> bytes:
        if self._first and head is self._answer_head:
            first, self._first = self._first, b""
            return self._frames.frame(head, text, first)
        return self._frames.frame(head, text)

    def _learn(self, event: bytes, delta: Delta) -> None:
        """Keep the shape of an event that has one text and nothing else."""
        text = delta.content or delta.reasoning
        if not text or (delta.content and delta.reasoning) or delta.finish_reason or delta.tool_calls or delta.usage:
            return
        known = self._content if delta.content else self._field
        if not (known is not None and known.fits(event)) and (shape := shape_of(event, text)):
            if delta.content:
                self._content = shape
            else:
                self._field = shape

    def _expected(self, delta: Delta) -> Lane | None:
        """What the next event will be if it is like the one just read."""
        thinking = self._parser.thinking
        if delta.content and self._content is not None and self._ready:
            head, marks = self._think_head if thinking else self._answer_head, not thinking and self._citing is not None
            return Lane(self._content, head, self._lag, tag=b"<", marks=marks, counts=thinking)
        if delta.reasoning and self._field is not None and self._thought and not thinking:
            return Lane(self._field, self._think_head, self._seen, tag=b'"', marks=False, counts=True)
        return None
