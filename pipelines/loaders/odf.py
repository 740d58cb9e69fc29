"""OpenDocument text, spreadsheets and presentations (ODF 1.3), straight from their XML."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample, locked
from pipelines.loaders._office import joined
from pipelines.loaders._xml import parse
from pipelines.markup import heading, one_line, spanned, table
from pipelines.types import Page

SUFFIXES = frozenset({".odt", ".ott", ".ods", ".ots", ".odp", ".otp"})
MEDIA_TYPES = frozenset(
    f"application/vnd.oasis.opendocument.{kind}" for kind in ("text", "spreadsheet", "presentation")
)

_MARK = b"mimetypeapplication/vnd.oasis.opendocument."
_NAMES = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _DRAW = (f"{{{_NAMES}{part}:1.0}}" for part in ("text", "table", "drawing"))
_OFFICE, _PRESENTATION = (f"{{{_NAMES}{part}:1.0}}" for part in ("office", "presentation"))
_SVG = f"{{{_NAMES}svg-compatible:1.0}}"
_STYLE = f"{{{_NAMES}style:1.0}}"
# Comments, changes that were deleted, and what a reader does not see.
_SKIPPED = frozenset({_OFFICE + "annotation", _TEXT + "tracked-changes", _TEXT + "ruby-text", _SVG + "title",
                      _SVG + "desc", _TEXT + "sequence-decls", _PRESENTATION + "settings"})  # fmt: skip
#: columns and rows that one cell may stand for ("repeated" runs to the end of the sheet)
_MOST_COLUMNS, _MOST_ROWS = 1000, 1000


def recognises(sample: Sample) -> bool:
    """The first member of the zip says what it is (ODF 1.3 part 2, 3.3)."""
    return _MARK in sample.head[:128]


def load(path: Path, options: Options) -> Iterator[Page]:
    """A text is one page without a number; sheets and slides are pages with their numbers and names."""
    with zipfile.ZipFile(path) as archive:
        if b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise locked(path, options, "save a copy without a password and add that")
        content = parse(archive.read("content.xml"))
        styles = _styles(content)
    body = content.find(f"{_OFFICE}body")
    kind = one_line(body[0].tag.rsplit("}", 1)[1]) if body is not None and len(body) else ""
    reader = _Reader(styles)
    if kind == "spreadsheet":
        for number, sheet in enumerate(body.iter(_TABLE + "table"), 1):
            name = sheet.get(_TABLE + "name", "")
            yield Page(text=joined(reader.sheet(sheet)), number=number, title=name or f"Sheet {number}")
    elif kind == "presentation":
        for number, slide in enumerate(body.iter(_DRAW + "page"), 1):
            yield reader.slide(slide, number)
    elif kind:
        yield Page(text=joined(reader.blocks(body[0])))


def _styles(content: Any) -> dict[str, str]:
    """Parent of each automatic style, to find out that "P3" is a "Title"."""
    return {
        style.get(_STYLE + "name"): style.get(_STYLE + "parent-style-name", "")
        for style in content.iter(_STYLE + "style")
    }


class _Reader:
    """Reads the blocks of one document."""

    def __init__(self, styles: dict[str, str]) -> None:
        self._styles = styles

    def blocks(self, parent: Any) -> Iterator[str]:
        """Headings, paragraphs, lists and tables below an element, as Markdown."""
        for element in parent:
            tag = element.tag
            if not isinstance(tag, str) or tag in _SKIPPED:
                continue
            if tag == _TEXT + "h":
                yield heading(self.text(element), int(element.get(_TEXT + "outline-level", "1")) + self._has_title)
            elif tag == _TEXT + "p":
                yield self._paragraph(element)
                yield from self._frames(element)
            elif tag == _TEXT + "list":
                yield "\n".join(self._items(element, 0))
            elif tag == _TABLE + "table":
                yield table(self._rows(element))
            else:
                yield from self.blocks(element)

    _has_title = 0

    def _paragraph(self, element: Any) -> str:
        style = element.get(_TEXT + "style-name", "")
        style = self._styles.get(style, "") or style
        text = self.text(element).strip()
        if style == "Title" and text:
            return heading(text, 1)
        return text

    def _frames(self, element: Any) -> Iterator[str]:
        """Text boxes, tables and pictures that hang on a paragraph."""
        for frame in element.iter(_DRAW + "text-box", _SVG + "desc"):
            if frame.tag == _SVG + "desc":
                yield f"![{one_line(frame.text or '')}]()" if (frame.text or "").strip() else ""
            else:
                yield from self.blocks(frame)

    def text(self, element: Any) -> str:
        """Running text of a paragraph, without what is anchored in it."""
        parts = [element.text or ""]
        for child in element:
            tag = child.tag
            if tag == _TEXT + "s":
                parts.append(" " * min(int(child.get(_TEXT + "c", "1")), 100))
            elif tag == _TEXT + "tab":
                parts.append("\t")
            elif tag == _TEXT + "line-break":
                parts.append("\n")
            elif tag == _TEXT + "note":
                parts.append(f" [{one_line(''.join(child.itertext(_TEXT + 'p', _TEXT + 'span')))}]")
            elif isinstance(tag, str) and tag not in _SKIPPED and tag not in (_DRAW + "frame", _DRAW + "custom-shape"):
                parts.append(self.text(child))
            parts.append(child.tail or "")
        return "".join(parts)

    def _items(self, listing: Any, depth: int) -> Iterator[str]:
        for item in listing:
            first = True
            for element in item:
                if element.tag == _TEXT + "list":
                    yield from self._items(element, depth + 1)
                elif isinstance(element.tag, str):
                    text = one_line(self.text(element))
                    if text:
                        yield f"{'    ' * depth}{'-' if first else ' '} {text}"
                        first = False

    def _rows(self, element: Any) -> list[list[str]]:
        rows: list[list[str]] = []
        for row in element.iter(_TABLE + "table-row"):
            if next(row.iterancestors(_TABLE + "table")) is element:
                cells = self._cells(row)
                times = int(row.get(_TABLE + "number-rows-repeated", "1"))
                rows.extend([cells] * (min(times, _MOST_ROWS) if any(cells) else 1))
        return rows

    def _cells(self, row: Any) -> list[str]:
        cells: list[str] = []
        for cell in row:
            if cell.tag not in (_TABLE + "table-cell", _TABLE + "covered-table-cell"):
                continue
            lines = (one_line(self.text(part)) for part in cell.iter(_TEXT + "p", _TEXT + "h"))
            text = " ".join(line for line in lines if line) or self._value(cell)
            times = min(int(cell.get(_TABLE + "number-columns-repeated", "1")), _MOST_COLUMNS - len(cells))
            if cell.tag == _TABLE + "covered-table-cell":
                text = spanned(cells[-1]) if cells else ""
            cells.extend([text] * (times if text else min(times, 1 + times)))
        while cells and not cells[-1]:
            cells.pop()
        return cells

    @staticmethod
    def _value(cell: Any) -> str:
        return str(cell.get(_OFFICE + "date-value") or cell.get(_OFFICE + "value") or "")

    def sheet(self, sheet: Any) -> Iterator[str]:
        """Tables of rows that stand together; empty rows part them."""
        block: list[list[str]] = []
        for row in [*self._rows(sheet), []]:
            if any(row):
                block.append(row)
            elif block:
                yield table(block)
                block = []

    def slide(self, slide: Any, number: int) -> Page:
        """A slide: its title as heading, its frames in their order, and the speaker's notes."""
        title, blocks = "", []
        for frame in slide:
            if frame.tag == _PRESENTATION + "notes":
                notes = one_line(joined(self.blocks(frame), " "))
                blocks.append(f"Notes: {notes}" if notes else "")
            elif not title and frame.get(_PRESENTATION + "class") == "title":
                title = one_line(joined(self.blocks(frame), " "))
            else:
                blocks.extend(self.blocks(frame))
        return Page(text=joined((heading(title, 1), *blocks)), number=number, title=title or f"Slide {number}")
