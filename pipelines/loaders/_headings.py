"""Headings of a PDF page, which has none of its own: lines in larger or bolder letters than the body of the page."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from ctypes import byref, c_int, create_string_buffer
from heapq import nlargest
from itertools import accumulate
from typing import Any, NamedTuple

#: how much larger than the body a heading's letters are, and those of a title
_LARGER, _TITLE = 1.15, 1.6
# pdfium knows the weight of few fonts; their names tell more (TeX: "SFBX1000", "NimbusRomNo9L-Medi").
_BOLD = re.compile(rb"Bold|Black|Heavy|Demi|-Medi|BX\d|W[6-9]\b")
_NAME = 128
#: characters of a heading at most; lines of a page that may be headings (else it is a poster, or a table)
_LONGEST, _SHARE = 120, 0.3
#: lines of a page of running text at least
_FEWEST = 6
_BULLETS = ("・", "•", "◆", "●", "■", "○", "▪", "-", "–", "※", "☐", "☒", "{", "(注", "（注")
_ENDS = (".", ",", ";", "。", "、", "，", "；", "-", "…")


class _Line(NamedTuple):
    text: str
    #: place of its first letter on the page
    place: int


def mark(content: Any, text: str) -> str:
    """The text of a page with "#" in front of its headings.

    Lines that begin with "#" themselves get a space in front, so that they are none.
    """
    if len(text) != content.count_chars() or text.count("\n") + 1 < _FEWEST:
        return _escaped(text)
    lines = text.split("\n")
    words = [line.strip() for line in lines]
    starts = [0, *accumulate(len(line) + 1 for line in lines)]

    def line(number: int) -> _Line:
        return _Line(words[number], starts[number] + len(lines[number]) - len(lines[number].lstrip()))

    longest = [line(number) for number in nlargest(5, range(len(words)), key=lambda number: len(words[number]))]
    if not longest[-1].text:
        return _escaped(text)
    fonts = _Fonts(content)
    body = Counter([fonts.size(one) for one in longest]).most_common(1)[0][0]
    is_plain = not all(map(fonts.bold, longest[:3]))
    levels = [0] * len(words)
    for number, text_of in enumerate(words):  # nearly all lines of running text end here, unlooked at
        if 2 < len(text_of) <= _LONGEST and _may_be(text_of):
            levels[number] = _level(fonts, line(number), body, is_plain)
    if not any(levels) or sum(map(bool, levels)) > _SHARE * len(words):
        return _escaped(text)
    return "\n".join(_marked(words, levels))


def _escaped(text: str) -> str:
    return text if "#" not in text else "\n".join(map(_escaped_line, text.split("\n")))


def _escaped_line(line: str) -> str:
    return f" {line}" if line.startswith("#") else line


class _Fonts:
    """Tells size and weight of the letters of one page."""

    def __init__(self, content: Any) -> None:
        from pypdfium2 import raw

        self._page, self._font, self._height = content.raw, raw.FPDFText_GetFontInfo, raw.FPDFText_GetLooseCharBox
        self._buffer, self._flags, self._box = create_string_buffer(_NAME), byref(c_int()), raw.FS_RECTF()
        self._where = byref(self._box)

    def size(self, line: _Line) -> float:
        """Height of the first letter in points, as its font has it and not as it is drawn."""
        self._height(self._page, line.place, self._where)
        return float(round(2 * (self._box.top - self._box.bottom)) / 2)

    def bold(self, line: _Line) -> bool:
        """Whether the first and the last letter are bold."""
        return self._is_bold(line.place) and self._is_bold(line.place + len(line.text) - 1)

    def _is_bold(self, place: int) -> bool:
        self._font(self._page, place, self._buffer, _NAME, self._flags)
        return _BOLD.search(self._buffer.value) is not None


def _may_be(words: str) -> bool:
    """Whether the words alone allow a heading."""
    return not words[0].islower() and not words.endswith(_ENDS) and not words.startswith(_BULLETS)


def _level(fonts: _Fonts, line: _Line, body: float, is_plain: bool) -> int:
    """1 to 3, or 0 for no heading. `is_plain`: the body of the page is not bold."""
    size, words = fonts.size(line), line.text
    larger = size >= _LARGER * body
    if size < 0.95 * body or not (larger or is_plain):
        return 0
    if not larger and not fonts.bold(line):
        return 0
    if sum(map(str.isalpha, words)) * 2 < len(words):
        return 0
    return 3 if not larger else 1 if size >= _TITLE * body else 2


def _marked(lines: Sequence[str], levels: Sequence[int]) -> Iterator[str]:
    """Headings stand between blank lines; lines of one heading that was wrapped become one."""
    title, before = "", 0
    for line, level in zip(lines, levels, strict=True):
        if title and (level != before or len(title) + len(line) > _LONGEST):
            yield f"\n{title}\n"
            title = ""
        if level:
            title = f"{title} {line}" if title else f"{'#' * level} {line}"
        else:
            yield _escaped_line(line)
        before = level
    if title:
        yield f"\n{title}"
