"""The bytes of a model server's events around the one thing in which they differ, their text."""

import re

import orjson

#: what may begin a citation, as it is written in JSON
_MARKS = (b"[", b"\xe3\x80\x90", b"\\u3010")
_TEXT_FIELD = re.compile(rb'"(?:content|reasoning|reasoning_content|thinking)"\s*:\s*\Z')


class Shape:
    """The bytes of a server's events around their text."""

    __slots__ = ("after", "before", "least")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.least = len(before) + len(after)

    def fits(self, event: bytes) -> bool:
        """Whether an event has the same bytes around its text."""
        return event.startswith(self.before) and event.endswith(self.after)

    def text(self, event: bytes) -> bytes | None:
        """The text of an event of this shape, as written in JSON; None if it has another shape or needs a look."""
        if len(event) <= self.least or not event.startswith(self.before) or not event.endswith(self.after):
            return None
        text = event[len(self.before) : len(event) - len(self.after)]
        return None if b'"' in text or text.endswith(b"\\") else text


class Lane:
    """What the next ordinary event is expected to be, with all that copying it takes; made once for many events."""

    __slots__ = ("_cut", "_lead", "_marks", "_skip", "_tag", "_trail", "counts", "head", "seen")

    def __init__(self, shape: Shape, head: bytes, seen: list[bytes], *, tag: bytes, marks: bool, counts: bool) -> None:
        """`head` goes before the text in a client's frame, b"" shows nothing; texts are noted in `seen`; `tag` is what
        a parser wants to see, `marks` says that citations are looked for, `counts` that tokens are counted.
        """
        self._lead, self._trail = b"data: " + shape.before, shape.after + b"\n\n"
        self._skip, self._cut = len(self._lead), -len(self._trail)
        self._tag, self._marks = tag, marks
        self.head, self.seen, self.counts = head, seen, counts

    def text(self, data: bytes) -> bytes:
        """The text of bytes that are just one event as expected; b"" for anything else, escapes among it."""
        if data.startswith(self._lead) and data.endswith(self._trail):
            text = data[self._skip : self._cut]
            if not (b'"' in text or b"\\" in text or self._tag in text or (self._marks and may_cite(text))):
                return text
        return b""


def shape_of(event: bytes, text: str) -> Shape | None:
    """The shape of an event whose text is known; None if the text is not written in it as we would write it."""
    written = orjson.dumps(text)
    before, _, after = event.partition(written)
    if not _TEXT_FIELD.search(before) or written in after or b"\n" in event:
        return None
    return Shape(before + b'"', b'"' + after)


def decoded(text: bytes) -> str:
    """Text as written in JSON, read."""
    if b"\\" not in text:
        return text.decode("utf-8", "replace")
    read: str = orjson.loads(b'"' + text + b'"')
    return read


def may_cite(text: bytes) -> bool:
    """Whether a text of an answer, as written in JSON, may begin a citation, or be the blank before one."""
    return text.endswith((b" ", b"\\t")) or any(mark in text for mark in _MARKS)
