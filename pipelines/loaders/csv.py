"""CSV and TSV as Markdown tables, in groups of rows so that a large file never lies in memory as a whole table."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import table
from pipelines.types import Page

SUFFIXES = frozenset({".csv", ".tsv", ".tab"})
MEDIA_TYPES = frozenset({"text/csv", "text/tab-separated-values"})
#: rows of one page; a longer file becomes several pages, each with the header
ROWS = 1000


def recognises(sample: Sample) -> bool:
    """A table of text has no mark of its own; its name decides."""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page for each 1,000 rows, without a number; the title names the rows if there are several pages."""
    text = read_text(path, options)
    csv.field_size_limit(16 << 20)
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), _dialect(text)) if any(row))
    header = next(rows, [])
    first, group = 1, []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield _page(header, group, first, len(group))
            first, group = first + ROWS, []
    if group or first == 1:
        yield _page(header, group, first, len(group))


def _page(header: list[str], rows: list[list[str]], first: int, count: int) -> Page:
    title = f"rows {first}-{first + count - 1}" if first > 1 or count == ROWS else ""
    return Page(text=table([header, *rows]), title=title)


def _dialect(text: str) -> type[csv.Dialect] | csv.Dialect:
    """The delimiter that splits the first lines most evenly; quotes doubled as in RFC 4180."""
    lines = [line for line in text[:16384].splitlines()[:20] if line.strip()]

    def evenness(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        usual = max(set(widths), key=lambda width: (widths.count(width), width))
        return (widths.count(usual) / len(widths) if usual > 1 else 0.0, usual)

    best = max(",;\t|", key=evenness) if lines else ","

    class Sniffed(csv.excel):
        delimiter = best

    return Sniffed
