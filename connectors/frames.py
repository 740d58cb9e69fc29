"""The bytes of a client's frames (`chat.completion.chunk`) around their text."""

from collections.abc import Mapping
from typing import Any

import orjson


class Frames:
    """What the frames of one answer are made of."""

    __slots__ = ("_end", "answer_head", "first", "opening", "tail", "think_head")

    def __init__(
        self, root: Mapping[str, Any], first: Mapping[str, Any] | None = None, reasoning: str = "reasoning_content"
    ) -> None:
        """`root` stands in each frame beside `choices` (id, object, created, model); `first` is added to the first
        frame of the answer itself (search results); `reasoning` is the field for thinking, "" leaves thinking out.
        """
        head = b"data: " + orjson.dumps(root)[:-1] + b',"choices":[{"index":0,"delta":{'
        self._end = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        #: before a text as it is written in JSON, without its quotation marks, and after it
        self.answer_head = head + b'"content":"'
        self.think_head = head + b'"%s":"' % reasoning.encode() if reasoning else b""
        self.tail = b'"' + self._end
        self.first = orjson.dumps(first)[1:-1] if first else b""
        #: the frame that opens an answer
        self.opening = head + b'"role":"assistant","content":""' + self._end

    def frame(self, head: bytes, text: str, more: bytes = b"") -> bytes:
        """A frame with a text; `more` are further root fields, as written in JSON."""
        end = self._end[:-3] + b"," + more + b"}\n\n" if more else self._end
        return head + orjson.dumps(text)[1:] + end
