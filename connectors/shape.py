"""The bytes of a model server's events around the one thing in which they differ, their text."""

import re

import orjson

_TEXT_FIELD = re.compile(rb'"(?:content|reasoning|reasoning_content|thinking)"\s*:\s*\Z')


class Shape:
    """The bytes of a server's events around their text."""

    __slots__ = ("after", "before", "lead", "least", "trail")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.least = len(before) + len(after)
        #: the same with what stands around an event in the stream
        self.lead, self.trail = b"data: " + before, after + b"\n\n"

    def text(self, event: bytes) -> bytes | None:
        """The text of an event of this shape, as written in JSON; None if it has another shape or needs a look."""
        if len(event) < self.least or not event.startswith(self.before) or not event.endswith(self.after):
            return None
        text = event[len(self.before) : len(event) - len(self.after)]
        return None if b'"' in text or text.endswith(b"\\") else text

    def only_text(self, data: bytes) -> bytes | None:
        """The same of bytes that may be just one event, without its escapes."""
        if data.startswith(self.lead) and data.endswith(self.trail) and len(data) > self.least + 8:
            text = data[len(self.lead) : len(data) - len(self.trail)]
            return None if b'"' in text or b"\\" in text else text
        return None


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
