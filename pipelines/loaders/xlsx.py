"""Excel workbooks: one page for each sheet, each block of rows as a Markdown table."""

import datetime
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample
from pipelines.loaders._office import opened
from pipelines.markup import table
from pipelines.types import Page

SUFFIXES = frozenset({".xlsx", ".xlsm", ".xltx"})
MEDIA_TYPES = frozenset({"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"})

#: empty rows after which nothing is expected any more (sheets can be "used" down to row 1,048,576)
_EMPTY_ROWS = 10_000


def recognises(sample: Sample) -> bool:
    """A zip with a workbook in it."""
    return "xl/workbook.xml" in sample.members


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page for each sheet, with its number and name; stored values, dates as ISO 8601, percentages as shown."""
    import openpyxl

    # an open file, since openpyxl judges a path by its ending, and stored files have none
    with (
        opened(path, options) as file,
        warnings.catch_warnings(action="ignore"),
    ):  # it warns of every extension it leaves out
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        with closing(workbook):
            for number, sheet in enumerate(workbook.worksheets, 1):
                sheet.reset_dimensions()  # a wrong "dimension" would hide rows
                yield Page(text="\n\n".join(_blocks(sheet)), number=number, title=sheet.title)


def _blocks(sheet: Any) -> Iterator[str]:
    """Tables of rows that stand together; empty rows part them."""
    block: list[list[str]] = []
    empty = 0
    for row in sheet.iter_rows():
        cells = [_shown(cell) for cell in row]
        if any(cells):
            block.append(cells)
            empty = 0
            continue
        if block:
            yield table(block)
            block = []
        empty += 1
        if empty > _EMPTY_ROWS:
            return
    if block:
        yield table(block)


def _shown(cell: Any) -> str:
    """A value as a reader sees it, near enough: full number formats are not rebuilt."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ", "seconds")
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        if "%" in str(cell.number_format):
            return f"{value * 100:.10g}%"
        return f"{value:.15g}"
    return str(value)
