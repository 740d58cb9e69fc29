"""The one streaming parser that separates a model's thinking from its answer, in every form that occurs.

Models of the R1 family write `<think>…</think>` before the answer. The prompt template may have written the opening
tag already, so that only the closing one comes (`starts_in_thinking`); tags come split over chunks; there may be
several blocks, or an empty one; the stream may end while thinking. Engines that separate thinking themselves send it
in a field of its own, and then nothing of this is needed for the field, but `content` may still hold tags.

Rules
- A tag in Markdown code is text: in a fence, or in a code span that closes on its line within `SPAN_LIMIT` characters.
- White space at the beginning of a block and of the answer is dropped; a block of white space is no reasoning.
- An opening tag at the beginning of thinking is dropped, later in thinking it is text. A closing tag without thinking
  is dropped.
- What is thought and never closed stays reasoning. `rescue()` says which part of it was probably the answer.
"""

import re
from functools import cache

from pipelines.markdown import CodeTracker
from pipelines.types import Reasoning, Text

SPAN_LIMIT = 80
_RUN = re.compile(r"`+")
_DETAILS = re.compile(r"<details\b[^>]*\btype=[\"']reasoning[\"'][^>]*>.*?(?:</details>|\Z)", re.DOTALL)
_OTHER_TAGS = re.compile(r"<(thinking|reasoning|thought)>.*?(?:</\1>|\Z)", re.DOTALL)
_QUOTED = re.compile(r"\A\s*(?:>[^\n]*\n)+\s*\n")

Piece = Reasoning | Text


@cache
def _tags(opening: str, closing: str) -> re.Pattern[str]:
    return re.compile(f"{re.escape(opening)}|{re.escape(closing)}")


class ReasoningParser:
    """Feed it `content` deltas, get pieces of reasoning and of answer. Amortised O(1) a character.

    Memory is bounded, but for what `rescue()` may have to give back: thinking while no closing tag was seen.
    """

    __slots__ = (
        "_answered",
        "_closing",
        "_code",
        "_fresh",
        "_held",
        "_kept",
        "_opening",
        "_out",
        "_suspect",
        "_suspect_from",
        "_tag",
        "_unmarked",
        "thinking",
    )

    def __init__(
        self, *, starts_in_thinking: bool = False, opening: str = "<think>", closing: str = "</think>"
    ) -> None:
        #: whether the next character is thinking
        self.thinking = starts_in_thinking
        self._opening, self._closing = opening, closing
        self._tag = _tags(opening, closing)
        self._code = CodeTracker()
        self._held = ""  # a tag, or its beginning, that cannot be judged yet
        self._fresh = True  # nothing but white space in this block so far
        self._answered = False
        self._unmarked = starts_in_thinking  # no tag seen yet
        self._suspect = 0  # number of the fence in which a closing tag stood, 0 if none did
        self._suspect_from = 0
        self._kept: list[str] = []
        self._out: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """Take the next delta of `content`; return what is certain by now, in order."""
        if self._held or "<" in text:
            self._scan(self._held + text, last=False)
        else:
            self._emit(text)
        out, self._out = self._out, []
        return out

    def waits(self) -> bool:
        """Whether the next text may come out otherwise than it goes in, even without a tag in it."""
        return bool(self._held) or self._fresh

    def separated(self) -> None:
        """Note that the engine sends thinking in a field of its own: `content` is the answer from here on."""
        self._unmarked = False
        self._kept.clear()
        if self.thinking:
            self._code.reset()
            self._turn(thinking=False)

    def close(self) -> list[Piece]:
        """Take the end of the stream; return what was held back."""
        self._scan(self._held, last=True)
        out, self._out = self._out, []
        return out

    def rescue(self) -> str:
        """After `close`, the part of unclosed reasoning that is probably the answer; "" if nothing speaks for it.

        Either no tag came at all (the model skipped its thinking, or the engine cut the tags out), or a closing tag
        stood in a code fence that was never closed. Only for streams that ended by themselves, not by a limit.
        """
        if not self.thinking:
            return ""
        if self._suspect and self._code.fenced() and self._code.fences == self._suspect:
            return "".join(self._kept[self._suspect_from :]).strip()
        return "".join(self._kept).strip() if self._unmarked else ""

    def _scan(self, buffer: str, last: bool) -> None:
        self._held = ""
        position = 0
        while match := self._tag.search(buffer, position):
            self._emit(buffer[position : match.start()])
            is_tag = self._is_tag(buffer, match.end(), last)
            if is_tag is None:
                self._held = buffer[match.start() :]
                return
            position = match.end()
            self._take(match.group(), is_tag)
        tail = buffer[position:]
        keep = 0 if last else self._partial(tail)
        self._emit(tail[: len(tail) - keep])
        self._held = tail[len(tail) - keep :]

    def _is_tag(self, buffer: str, end: int, last: bool) -> bool | None:
        """Whether the tag before `end` counts; None if more text is needed to know."""
        if self._code.fenced():
            return False
        run = self._code.inline()
        if not run:
            return True
        line, newline, _ = buffer[end : end + SPAN_LIMIT + 1].partition("\n")
        complete = bool(newline) or last or len(line) > SPAN_LIMIT
        for match in _RUN.finditer(line):
            if len(match.group()) == run and (match.end() < len(line) or complete):
                return False
        return True if complete else None

    def _take(self, tag: str, is_tag: bool) -> None:
        closing = tag == self._closing
        if not is_tag:
            self._emit(tag)
            if self.thinking and closing and self._code.fenced() and self._suspect != self._code.fences:
                self._suspect, self._suspect_from = self._code.fences, len(self._kept)
        elif self.thinking and not closing and not self._fresh:
            self._emit(tag)
        else:
            self._unmarked = False
            self._kept.clear()
            self._code.reset()
            if self.thinking == closing:
                self._turn(thinking=not closing)

    def _turn(self, thinking: bool) -> None:
        self.thinking = thinking
        self._fresh = thinking or not self._answered
        self._suspect = 0

    def _emit(self, text: str) -> None:
        if not text:
            return
        self._code.advance(text)
        if self._fresh:
            text = text.lstrip()
            if not text:
                return
            self._fresh = False
        if not self.thinking:
            self._answered = True
            self._out.append(Text(text))
            return
        if self._unmarked or self._suspect:
            self._kept.append(text)
        self._out.append(Reasoning(text))

    def _partial(self, tail: str) -> int:
        """Length of the longest end of `tail` that may be the beginning of a tag."""
        start = tail.rfind("<", -len(self._closing))
        if start < 0:
            return 0
        end = tail[start:]
        return len(end) if self._opening.startswith(end) or self._closing.startswith(end) else 0


def split_reasoning(text: str, *, starts_in_thinking: bool = False) -> tuple[str, str]:
    """Reasoning and answer of a whole text."""
    parser = ReasoningParser(starts_in_thinking=starts_in_thinking)
    pieces = [*parser.feed(text), *parser.close()]
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return reasoning, "".join(piece.text for piece in pieces if isinstance(piece, Text))


def strip_reasoning(text: str) -> str:
    """An assistant's turn of a conversation without thinking, whatever form the client returned it in.

    Handles `<think>` blocks, a closing tag without an opening one (everything before it goes, as in R1's own chat
    template), the `<details type="reasoning">` and other tags clients wrap around it, and a leading block quote
    (how some clients show thinking) that cites nothing and has an answer after it.
    """
    text = _OTHER_TAGS.sub("", _DETAILS.sub("", text))
    first_closing, first_opening = text.find("</think>"), text.find("<think>")
    unopened = first_closing >= 0 and not 0 <= first_opening < first_closing
    parser = ReasoningParser(starts_in_thinking=unopened)
    pieces = [*parser.feed(text), *parser.close()]
    if unopened and parser.thinking:  # the closing tag stood in code
        pieces = [Text(text)]
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    if (quoted := _QUOTED.match(text)) and not re.search(r"\[\d+\]", quoted.group()) and text[quoted.end() :].strip():
        text = text[quoted.end() :]
    return text.strip()
