"""Ruled tables of PDF pages: pdfplumber finds the cells, pdfium reads what stands in them. The extra `tables`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from typing import Any

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options
from pipelines.markup import one_line, table

#: what to do where the extra is missing, to end a message
MISSING = "install the extra that finds tables (pip install 'deepwell[tables]') and add it again"
#: seconds that looking for tables on one page may take beyond the document's limit
PAGE_SECONDS = 20.0
#: drawn shapes a page must have to be looked at: fewer rule no table of two rows and two columns
_FEWEST_SHAPES = 3
#: points by which columns of a table that goes on on the next page may be off
_SHIFT = 3.0
#: a table that goes on ends in the last and begins in the first part of its pages
_FOOT, _HEAD = 0.75, 0.3
#: first of the private characters that stand for a table while the rest of the page is made
_MARK = 0xE000
_MOST_TABLES = 200
#: share of the letters of its lines that a table may lack
_MISSING = 0.01
#: points at a cell's upper and lower edge that are not read
_INSET = 2.5
#: cells with lines below each other from which on a ruled row may be several rows
_COLUMNS = 3

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Table:
    """A table on a page: its box and the left edges of its columns in points from the top left corner, its cells."""

    box: Box
    columns: tuple[float, ...]
    rows: tuple[tuple[str, ...], ...]
    #: height of the page
    height: float

    def goes_on_in(self, other: "Table") -> bool:
        """Whether `other`, on the next page, is the rest of this one: same columns, over the page break."""
        if self.box[3] < _FOOT * self.height or other.box[1] > _HEAD * other.height:
            return False
        if len(self.columns) != len(other.columns):
            return False
        return all(abs(a - b) <= _SHIFT for a, b in zip(self.columns, other.columns, strict=True))


def is_installed() -> bool:
    """Whether the extra `tables` is there."""
    return find_spec("pdfplumber") is not None


class Tables:
    """The tables of one document, page after page; knows the header of a table that goes on on the next page."""

    def __init__(self, path: Any, options: Options) -> None:
        import pdfplumber

        self._options = options
        try:
            self._document = pdfplumber.open(path, password=options.password or "")
        except Exception as error:  # noqa: BLE001 - pdfminer raises what it meets in a damaged file
            raise UnreadableDocument(f"its tables cannot be looked for: {error}") from None
        self._open: tuple[int, Table, tuple[str, ...]] | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._document.close()

    def of(self, page: Any, content: Any, index: int) -> list[Table]:
        """Tables of a page, in the order in which they stand, a table's header repeated where it goes on.

        `page` and `content` are pypdfium2's page and text page.
        """
        found = self._find(page, content, index)
        before = self._open
        self._open = None
        if found and before and before[0] == index - 1 and before[1].goes_on_in(found[0]):
            header = before[2]
            if found[0].rows[0] != header:
                found[0] = replace(found[0], rows=(header, *found[0].rows))
        if found:
            self._open = (index, found[-1], found[-1].rows[0])
        return found

    def _find(self, page: Any, content: Any, index: int) -> list[Table]:
        if page.get_rotation() or not _is_ruled(page):
            return []
        with self._options.slow(PAGE_SECONDS):
            try:
                plumbed = self._document.pages[index]
                grids = sorted(plumbed.find_tables()[:_MOST_TABLES], key=lambda grid: (grid.bbox[1], grid.bbox[0]))
                origin = plumbed.bbox[:2]
                found = [_read(grid, content, page, origin) for grid in grids]
                plumbed.close()
            except Exception as error:  # noqa: BLE001 - pdfminer raises what it meets in a damaged page
                self._options.remark(f"page {index + 1}: tables were not looked for ({type(error).__name__})")
                return []
        return [each for each in found if _is_table(each)]


def take_out(content: Any, text: str, tables: list[Table]) -> str:
    """The text of a page with one private character in place of each table's lines; character places do not change.

    A line belongs to a table if its first and its last letter stand in it. A table that does not hold all letters of
    its lines is dropped from `tables`, and its lines stay: nothing is lost for the sake of form.
    """
    if not tables or len(text) != content.count_chars():
        tables.clear()
        return text
    lines, start = text.split("\n"), 0
    owned: dict[int, list[int]] = {}
    for i, line in enumerate(lines):
        words = line.strip()
        if words:
            first = start + line.index(words)
            number = _inside(content, first, first + len(words) - 1, tables)
            if number is not None:
                owned.setdefault(number, []).append(i)
        start += len(line) + 1
    whole = [number for number, mine in owned.items() if _holds_all(tables[number], "".join(lines[i] for i in mine))]
    for new, number in enumerate(whole):
        for k, i in enumerate(owned[number]):
            mark = "" if k else chr(_MARK + new)
            lines[i] = mark.ljust(len(lines[i].rstrip("\r"))) + "\r" * lines[i].endswith("\r")
    tables[:] = [tables[number] for number in whole]
    return "\n".join(lines)


def put_back(text: str, tables: Sequence[Table]) -> str:
    """The text with each private character replaced by its table in Markdown."""
    for number, each in enumerate(tables):
        text = text.replace(chr(_MARK + number), f"\n\n{table(each.rows)}\n\n", 1)
    return text


def _holds_all(found: Table, text: str) -> bool:
    """Whether the cells hold what the lines hold; a repeated header only adds."""
    missing = Counter(_letters(text)) - Counter(_letters("".join(map("".join, found.rows))))
    return missing.total() <= _MISSING * len(_letters(text))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _inside(content: Any, first: int, last: int, tables: Sequence[Table]) -> int | None:
    height = tables[0].height
    boxes = [content.get_charbox(first), content.get_charbox(last)]
    centres = [((left + right) / 2, height - (bottom + top) / 2) for left, bottom, right, top in boxes]
    for number, each in enumerate(tables):
        x0, top, x1, bottom = each.box
        if all(x0 <= x <= x1 and top <= y <= bottom for x, y in centres):
            return number
    return None


def _is_ruled(page: Any) -> bool:
    from pypdfium2 import raw

    shapes = page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH], max_depth=3)
    return sum(1 for _ in islice(shapes, _FEWEST_SHAPES)) == _FEWEST_SHAPES


def _read(grid: Any, content: Any, page: Any, origin: tuple[float, float]) -> Table:
    """Cells as pdfium reads them: it has the characters right where pdfminer lacks a font's map."""
    height = page.get_height()
    left, top, right, bottom = _moved(grid.bbox, origin)
    rows: list[tuple[str, ...]] = []
    for row in grid.rows:
        cells = []
        for cell in row.cells:
            if cell is None:
                cells.append("")
                continue
            x0, y0, x1, y1 = _moved(cell, origin)
            inset = min(_INSET, (y1 - y0) / 5)  # letters of the next row reach into a cell
            cells.append(content.get_text_bounded(x0, height - y1 + inset, x1, height - y0 - inset, errors="replace"))
        rows.extend(_split(cells))
    edges = sorted({round(cell[0] - origin[0], 1) for cell in grid.cells})
    return Table((left, top, right, bottom), tuple(edges), tuple(rows), height)


def _split(cells: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows in one ruled row: several, where figures stand below each other with no rule between them.

    A cell of one line is said for each of these rows. Words below each other are one cell whose text was wrapped.
    """
    lines = [[one_line(line) for line in cell.splitlines() if line.strip()] for cell in cells]
    count = max(map(len, lines), default=0)
    stacked = [each for each in lines if len(each) > 1]
    figures = sum(any(map(str.isdigit, line)) for each in stacked for line in each)
    same = all(len(each) == count for each in stacked)
    if len(stacked) < _COLUMNS or not same or figures * 2 < len(stacked) * count:
        return [tuple(" ".join(each) for each in lines)]
    return [tuple(each[min(i, len(each) - 1)] if each else "" for each in lines) for i in range(count)]


def _moved(box: Box, origin: tuple[float, float]) -> Box:
    """A box of pdfplumber, whose pages may not begin at 0, as one of pdfium."""
    x, y = origin
    return (box[0] - x, box[1] - y, box[2] - x, box[3] - y)


def _is_table(found: Table) -> bool:
    """Frames around text are ruled too: a table has two rows and two columns with something in them."""
    filled = [row for row in found.rows if any(row)]
    columns = sum(any(column) for column in zip(*found.rows, strict=False))
    return len(filled) > 1 and columns > 1
