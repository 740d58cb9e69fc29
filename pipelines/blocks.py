"""Pages to units, the smallest pieces a passage is made of: sentences, headings, rows of tables, lines of code.

The units of a document are contiguous: each reaches to where the next begins, so that none of the text is lost.
"""

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipelines.types import Page

PROSE, HEADING, TABLE, CODE = range(4)
# How good it is to end a passage after a unit.
STICKS, ANYWHERE, LINE, SENTENCE, PARAGRAPH, SECTION = range(-1, 5)

_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*)")
_HEADING_LINE = re.compile(r"^#{1,6}[ \t]+\S.*\n?", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|`")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_RULE = re.compile(r"[ \t]*\|?[ \t:]*-[-| \t:]*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s")
_STOP = re.compile(r"""[.!?…。！？；｡]+["'”’」』）】\])]*\s*""")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|Nos|vs|Fig|cf|e\.g|i\.e|[A-Z])\.\s*\Z")
_WIDE_STOPS = "。！？；｡"
_CLAUSE_END = re.compile(r"[、，,;；:：]\s*|\s+")
#: longest heading kept in a path, in characters
_TITLE = 120


@dataclass(slots=True)
class Unit:
    """A piece of a document that is not cut further unless it is larger than a passage."""

    #: character offsets in the joined pages
    start: int
    end: int
    kind: int
    #: headings above it, its own included, outermost first
    path: tuple[str, ...]
    #: title of its page (sheet, slide): passages do not reach from one to another
    root: str = ""
    #: begins a section
    opens: bool = False
    #: how good it is to end a passage after it
    strength: int = LINE
    #: number of the table or code block it belongs to, 0 for none; `whole` is that block's tokens
    block: int = 0
    whole: int = 0
    #: header of the table, to be repeated above rows that stand without it
    header: str = ""
    header_tokens: int = 0
    tokens: int = 0
    #: picks one of equally good places to end a passage
    digest: int = 0


def units_of(
    pages: Sequence[Page], text: str, gap: int, count_tokens: Callable[[Sequence[str]], list[int]], limit: int
) -> list[Unit]:
    """Units of pages whose joined text is `text`, `gap` characters apart; each of at most `limit` tokens.

    All units are counted in one call of `count_tokens`; only those that are too large are cut and counted again.
    """
    scan = _Scan()
    offset = 0
    for page in pages:
        scan.page(page, offset)
        offset += len(page.text) + gap
    units = [part for unit in scan.units for part in _cut(text, unit, 4 * limit)]
    headers = sorted({unit.header for unit in units if unit.header})
    counts = count_tokens([*(text[unit.start : unit.end] for unit in units), *headers])
    sizes = dict(zip(headers, counts[len(units) :], strict=True))
    for unit, tokens in zip(units, counts, strict=False):
        unit.tokens = tokens
        unit.header_tokens = sizes.get(unit.header, 0)
        if unit.header_tokens > limit // 3:
            unit.header, unit.header_tokens = "", 0
    units = _fit(text, units, count_tokens, limit)
    _sum_blocks(units)
    for unit in units:
        unit.digest = zlib.crc32(text[max(unit.start, unit.end - 80) : unit.end].strip().encode("utf-8", "replace"))
    return units


def _fit(text: str, units: list[Unit], count_tokens: Callable[[Sequence[str]], list[int]], limit: int) -> list[Unit]:
    """Cut what is larger than a passage until nothing is; a single character stays whole."""
    while True:
        large = [unit for unit in units if _is_large(unit, limit)]
        if not large:
            return units
        parts: dict[int, list[Unit]] = {}
        for unit in large:
            length = unit.end - unit.start
            width = max(1, min(length - 1, length * 9 * (limit - unit.header_tokens) // (10 * unit.tokens)))
            parts[unit.start] = list(_cut(text, unit, width))
        fresh = [part for unit in large for part in parts[unit.start]]
        for part, tokens in zip(fresh, count_tokens([text[p.start : p.end] for p in fresh]), strict=True):
            part.tokens = tokens
        units = [part for unit in units for part in (parts[unit.start] if _is_large(unit, limit) else [unit])]


def _is_large(unit: Unit, limit: int) -> bool:
    return unit.tokens > limit - unit.header_tokens and unit.end - unit.start > 1


def _sum_blocks(units: list[Unit]) -> None:
    wholes: dict[int, int] = {}
    for unit in units:
        wholes[unit.block] = wholes.get(unit.block, 0) + unit.tokens
    for unit in units:
        unit.whole = wholes[unit.block] if unit.block else 0


def _cut(text: str, unit: Unit, width: int) -> Iterator[Unit]:
    """Pieces of at most `width` characters: at the end of a clause or word in their second half, else anywhere."""
    start = unit.start
    while unit.end - start > width:
        end = start + width
        for found in _CLAUSE_END.finditer(text, start + width // 2, end):
            end = found.end()
        while end > start + 1 and unicodedata.combining(text[end]):
            end -= 1
        yield replace(unit, start=start, end=end, strength=ANYWHERE, opens=unit.opens and start == unit.start)
        start = end
    if start == unit.start:
        yield unit
    else:
        yield replace(unit, start=start, opens=False)


@dataclass(slots=True)
class _Scan:
    """Reads lines of page after page and keeps the headings above them."""

    units: list[Unit] = field(default_factory=list)
    stack: list[tuple[int, str]] = field(default_factory=list)
    root: str = ""
    blocks: int = 0
    path: tuple[str, ...] = ()

    def page(self, page: Page, offset: int) -> None:
        """Units of one page. A page with a number but no title is plain text (PDF) that has headings at most."""
        fresh = page.title != self.root
        if fresh:
            self.root, self.stack = page.title, []
        self._set_path()
        before = len(self.units)
        if page.number is not None and not page.title:
            self._headed(page.text, offset)
        else:
            self._markdown(page.text, offset)
        if len(self.units) > before:
            self.units[before].opens = self.units[before].opens or fresh
            self.units[before].start = offset
            last = self.units[-1]
            last.end = offset + len(page.text)
            last.strength = max(last.strength, SENTENCE)

    def _set_path(self) -> None:
        titles = [title for _, title in self.stack]
        if self.root and titles[:1] != [self.root[:_TITLE]]:
            titles.insert(0, self.root[:_TITLE])
        self.path = tuple(titles)

    def _add(self, start: int, end: int, kind: int, strength: int = LINE, block: int = 0, header: str = "") -> Unit:
        unit = Unit(start, end, kind, self.path, self.root, strength=strength, block=block, header=header)
        if self.units and self.units[-1].root == self.root and self.units[-1].kind != HEADING and kind == HEADING:
            self.units[-1].strength = SECTION
        self.units.append(unit)
        return unit

    def _headed(self, text: str, offset: int) -> None:
        place = 0
        for found in _HEADING_LINE.finditer(text):
            if place < found.start():
                self._prose(text, place, found.start(), offset)
            self._heading(found.group().rstrip(), offset + found.start(), offset + found.end())
            place = found.end()
        if place < len(text):
            self._prose(text, place, len(text), offset)

    def _markdown(self, text: str, offset: int) -> None:
        lines = [(match.start(), match.end()) for match in _LINE.finditer(text)]
        index, prose = 0, -1
        while index < len(lines):
            start = lines[index][0]
            stop = self._block_end(text, lines, index)
            if stop == index:  # ordinary text
                prose = start if prose < 0 else prose
                index += 1
                continue
            if prose >= 0:
                self._prose(text, prose, start, offset)
                prose = -1
            self._block(text, lines[index:stop], offset)
            index = stop
        if prose >= 0:
            self._prose(text, prose, len(text), offset)

    def _block_end(self, text: str, lines: list[tuple[int, int]], index: int) -> int:
        """Index of the line after the heading, code block or table that begins here; `index` itself if none does."""
        start, end = lines[index]
        first = text[start : start + 1]
        if first == "#" and _HEADING.match(text[start:end].rstrip()):
            return index + 1
        fence = _FENCE.match(text, start, end) if first in "`~ " else None
        if fence:
            closing = fence.group(1)
            for place in range(index + 1, len(lines)):
                if (
                    text.startswith(closing, lines[place][0])
                    and not text[slice(*lines[place])].strip(closing[0]).strip()
                ):
                    return place + 1
            return len(lines)
        if first == "|" and index + 1 < len(lines) and _RULE.match(text[slice(*lines[index + 1])].rstrip()):
            stop = index + 2
            while stop < len(lines) and text.startswith("|", lines[stop][0]):
                stop += 1
            return stop
        return index

    def _block(self, text: str, lines: list[tuple[int, int]], offset: int) -> None:
        start, end = lines[0]
        if text[start] == "#":
            self._heading(text[start:end].rstrip(), offset + start, offset + end)
            return
        self.blocks += 1
        if text[start] != "|":
            for line_start, line_end in lines:
                blank = not text[line_start:line_end].strip()
                self._add(offset + line_start, offset + line_end, CODE, SENTENCE if blank else LINE, self.blocks)
        else:
            header = text[start : lines[1][1]].strip()
            self._add(offset + start, offset + lines[1][1], TABLE, STICKS, self.blocks)
            for line_start, line_end in lines[2:]:
                self._add(offset + line_start, offset + line_end, TABLE, LINE, self.blocks, header)
        self.units[-1].strength = PARAGRAPH

    def _heading(self, line: str, start: int, end: int) -> None:
        found = _HEADING.match(line)
        if not found:
            return
        level, title = len(found.group(1)), _EMPHASIS.sub("", found.group(2)[: 2 * _TITLE].rstrip(" \t#"))[:_TITLE]
        while self.stack and self.stack[-1][0] >= level:
            self.stack.pop()
        self.stack.append((level, title))
        self._set_path()
        follows = bool(self.units) and self.units[-1].kind == HEADING and self.units[-1].root == self.root
        self._add(start, end, HEADING, STICKS).opens = not follows

    def _prose(self, text: str, start: int, end: int, offset: int) -> None:
        """Sentences, and lines where a sentence goes on over a line end."""
        place = start
        for stop, strength in _boundaries(text, start, end):
            if text[place:stop].strip():
                self._add(offset + place, offset + stop, PROSE, strength)
            elif self.units and self.units[-1].end == offset + place:
                self.units[-1].end = offset + stop
                self.units[-1].strength = max(self.units[-1].strength, strength)
            else:
                continue  # blank lines before the first sentence belong to it
            place = stop


_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def _boundaries(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places where a passage may end, in order, each with its strength; the last one is `end`."""
    for line in _LINE.finditer(text, start, end):
        stop = line.end()
        sentence = -1
        for found in _STOP.finditer(text, line.start(), stop):
            if found.end() == stop or _ends_sentence(text, found):
                sentence = found.end()
                if sentence < stop:
                    yield sentence, SENTENCE
        if stop == end or text[stop] == "\n" or text[line.start()] == "\n":
            yield stop, PARAGRAPH
        elif sentence == stop or text[stop - 2 : stop - 1] in ".!?:。！？" or _ITEM.match(text, stop, end):
            yield stop, SENTENCE
        else:
            yield stop, LINE


def _ends_sentence(text: str, found: re.Match[str]) -> bool:
    """East Asian stops need no space after them; Western ones do, and no small letter behind it."""
    if found.group()[0] in _WIDE_STOPS:
        return True
    after = text[found.end()]
    if not text[found.end() - 1].isspace() or after.islower():
        return False
    return not _ABBREVIATION.search(text, max(0, found.start() - 4), found.end())
