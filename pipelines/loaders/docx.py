"""Word documents: headings, lists, tables, text boxes, equations and footnotes, in the order of the document."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample
from pipelines.loaders._office import joined, opened, picture
from pipelines.markup import heading, one_line, spanned, table
from pipelines.types import Page

SUFFIXES = frozenset({".docx", ".docm", ".dotx"})
MEDIA_TYPES = frozenset({"application/vnd.openxmlformats-officedocument.wordprocessingml.document"})

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_DOC_PR = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}docPr"
# Deleted text, field codes, and the second copy that Word keeps of a drawing for old readers.
_SKIPPED = frozenset({_W + "del", _W + "moveFrom", _W + "instrText", _W + "pPr", _W + "rPr", _FALLBACK})
_ITEM = re.compile(r" *(?:-|\d+(?:\.\d+)*[.)]?) ")
_FOOTNOTES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"


def recognises(sample: Sample) -> bool:
    """A zip with a Word document in it."""
    return "word/document.xml" in sample.members


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number: Word files do not know their pages. Page headers and footers are left out."""
    import docx
    from docx.opc.exceptions import OpcError

    try:
        with opened(path, options) as file:
            document = docx.Document(file)
    except OpcError as error:
        raise ValueError(str(error)) from error
    reader = _Reader(document)
    body = joined(_tight_lists(reader.blocks(document.element.body)))
    yield Page(text=joined((body, *_footnotes(document, reader))))


def _tight_lists(blocks: Iterator[str]) -> Iterator[str]:
    """List items that follow each other belong together, without blank lines between them."""
    items: list[str] = []
    for block in blocks:
        if _ITEM.match(block):
            items.append(block)
            continue
        if items:
            yield "\n".join(items)
            items = []
        yield block
    if items:
        yield "\n".join(items)


def _footnotes(document: Any, reader: "_Reader") -> Iterator[str]:
    from lxml import etree

    for relation in document.part.rels.values():
        if relation.reltype == _FOOTNOTES and not relation.is_external:
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            for note in etree.fromstring(relation.target_part.blob, parser).iter(_W + "footnote"):
                if note.get(_W + "type") is None:  # the others are separators
                    text = one_line(" ".join(reader.text(paragraph) for paragraph in note.iter(_W + "p")))
                    yield f"[^{note.get(_W + 'id')}]: {text}" if text else ""


class _Reader:
    """Reads blocks of one document, and counts the numbers of its lists and headings as it goes."""

    def __init__(self, document: Any) -> None:
        self._styles = {style.style_id: style.element for style in document.styles}
        self._numbering = _numbering(document)
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * 9)

    def blocks(self, parent: Any) -> Iterator[str]:
        """Paragraphs and tables below an element, as Markdown."""
        for element in parent:
            if element.tag == _W + "p":
                yield self._paragraph(element)
                yield from self._drawings(element)
            elif element.tag == _W + "tbl":
                yield self._table(element)
            elif element.tag in (_W + "sdt", _W + "sdtContent", _W + "ins", _W + "customXml", _W + "smartTag"):
                yield from self.blocks(element)

    def text(self, element: Any) -> str:
        """Text of a paragraph: inserted text and links are in, deleted text and text boxes are not."""
        parts: list[str] = []
        for child in element:
            tag = child.tag
            if tag in (_W + "t", _M_TEXT):
                parts.append(child.text or "")
            elif tag in (_W + "tab", _W + "br", _W + "cr"):
                parts.append("\t" if tag == _W + "tab" else "\n")
            elif tag == _W + "noBreakHyphen":
                parts.append("-")
            elif tag == _W + "footnoteReference":
                parts.append(f"[^{child.get(_W + 'id')}]")
            elif tag not in _SKIPPED and tag != _W + "txbxContent":
                parts.append(self.text(child))
        return "".join(parts)

    def _paragraph(self, element: Any) -> str:
        text = self.text(element).strip()
        if not text:
            return ""
        level = self._outline(element)
        number, depth = self._number(element)
        if level:
            return heading(f"{number} {text}" if number[:1].isdigit() else text, level)
        if number:
            return f"{'    ' * depth}{number} {one_line(text)}"
        return text

    def _drawings(self, element: Any) -> Iterator[str]:
        """Text boxes anchored in a paragraph, and what pictures say about themselves."""
        for found in element.iter(_W + "txbxContent", _DOC_PR):
            if any(parent.tag == _FALLBACK for parent in found.iterancestors()):
                continue
            if found.tag == _DOC_PR:
                yield picture(found.get("name", ""), one_line(found.get("descr", "")))
            else:
                yield from self.blocks(found)

    def _table(self, element: Any) -> str:
        rows: list[list[str]] = []
        for row in element.iter(_W + "tr"):
            if next(row.iterancestors(_W + "tbl")) is element:
                rows.append(self._row(row, rows[-1] if rows else []))
        return table(rows) if any(len(row) > 1 for row in rows) else joined(cell for row in rows for cell in row)

    def _row(self, row: Any, above: list[str]) -> list[str]:
        cells: list[str] = []
        for cell in row.iter(_W + "tc"):
            if next(cell.iterancestors(_W + "tr")) is not row:
                continue
            merge = cell.find(f"{_W}tcPr/{_W}vMerge")
            if merge is not None and merge.get(_W + "val") != "restart":
                text = spanned(above[len(cells)]) if len(cells) < len(above) else ""
            else:
                text = joined(self.blocks(cell), " ")
            span = cell.find(f"{_W}tcPr/{_W}gridSpan")
            more = min(int(span.get(_W + "val", "1")), 100) - 1 if span is not None else 0
            cells += [text, *[spanned(text)] * more]
        return cells

    def _property(self, element: Any, name: str) -> Any:
        """A paragraph property: its own, or that of its style and the styles this is based on."""
        own = element.find(f"{_W}pPr/{_W}{name}")
        style = element.find(f"{_W}pPr/{_W}pStyle")
        seen: set[str] = set()
        key = style.get(_W + "val") if style is not None else ""
        while own is None and key in self._styles and key not in seen:
            seen.add(key)
            own = self._styles[key].find(f"{_W}pPr/{_W}{name}")
            based = self._styles[key].find(_W + "basedOn")
            key = based.get(_W + "val") if based is not None else ""
        return own

    def _outline(self, element: Any) -> int:
        """Level of a heading, 1 for the title and for the first level; 0 for ordinary text."""
        style = element.find(f"{_W}pPr/{_W}pStyle")
        entry = self._styles.get(style.get(_W + "val")) if style is not None else None
        name = entry.find(_W + "name").get(_W + "val").lower() if entry is not None else ""
        if name == "title":
            return 1
        outline = self._property(element, "outlineLvl")
        level = int(outline.get(_W + "val")) + 1 if outline is not None else 0
        if not level and name.startswith("heading ") and name[8:].isdigit():
            level = int(name[8:])
        return level if level <= 9 else 0

    def _number(self, element: Any) -> tuple[str, int]:
        """Bullet or number in front of a paragraph ("-", "2.", "1.2"), and how deep it stands in its list."""
        properties = self._property(element, "numPr")
        number = properties.find(_W + "numId") if properties is not None else None
        key = number.get(_W + "val") if number is not None else "0"
        if key == "0":
            return "", 0
        place = properties.find(_W + "ilvl")
        depth = min(int(place.get(_W + "val")), 8) if place is not None else 0
        list_id, form, pattern = self._numbering.get((key, depth), ("", "bullet", ""))
        if form in ("bullet", "none"):
            return "-", depth
        counts = self._counts[list_id]
        counts[depth] += 1
        counts[depth + 1 :] = [0] * (8 - depth)
        counts[:depth] = [max(1, count) for count in counts[:depth]]
        for level in range(depth + 1):
            pattern = pattern.replace(f"%{level + 1}", str(counts[level]))
        return (pattern if pattern[:1].isdigit() else f"{counts[depth]}."), depth


def _numbering(document: Any) -> dict[tuple[str, int], tuple[str, str, str]]:
    """Which count it goes on with, number format and pattern ("%1.%2") by list id and depth.

    Lists of one abstract definition go on counting, unless one overrides a level to start anew.
    """
    part = next((rel.target_part for rel in document.part.rels.values() if rel.reltype.endswith("/numbering")), None)
    if part is None:
        return {}
    levels: dict[str, list[tuple[int, str, str]]] = {}
    for abstract in part.element.iter(_W + "abstractNum"):
        levels[abstract.get(_W + "abstractNumId")] = [
            (int(level.get(_W + "ilvl")), _value(level, "numFmt", "decimal"), _value(level, "lvlText", "%1."))
            for level in abstract.iter(_W + "lvl")
        ]
    table_of_lists = {}
    for num in part.element.iter(_W + "num"):
        own, abstract_id = num.get(_W + "numId"), _value(num, "abstractNumId", "")
        count = f"num {own}" if num.find(_W + "lvlOverride") is not None else abstract_id
        for depth, form, pattern in levels.get(abstract_id, []):
            table_of_lists[own, depth] = (count, form, pattern)
    return table_of_lists


def _value(element: Any, name: str, default: str) -> str:
    found = element.find(_W + name)
    return default if found is None else str(found.get(_W + "val", default))
