"""PowerPoint decks: one page for each slide, with its title, text, tables, charts and speaker notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample
from pipelines.loaders._office import chart_rows, joined, opened, picture
from pipelines.markup import heading, one_line, spanned, table
from pipelines.types import Page

SUFFIXES = frozenset({".pptx", ".pptm", ".ppsx"})
MEDIA_TYPES = frozenset({"application/vnd.openxmlformats-officedocument.presentationml.presentation"})


def recognises(sample: Sample) -> bool:
    """A zip with a presentation in it."""
    return "ppt/presentation.xml" in sample.members


def load(path: Path, options: Options) -> Iterator[Page]:
    """Slides with their numbers and titles, shapes from top to bottom."""
    for number, slide in enumerate(_open(path, options).slides, 1):
        title = one_line(slide.shapes.title.text_frame.text) if slide.shapes.title is not None else ""
        blocks = [heading(title, 1)]
        for shape in _in_order(slide.shapes):
            if slide.shapes.title is None or shape.shape_id != slide.shapes.title.shape_id:
                blocks.extend(_blocks(shape))
        notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
        if notes is not None and notes.text.strip():
            blocks.append(f"Notes: {notes.text.strip()}")
        yield Page(text=joined(blocks), number=number, title=title or f"Slide {number}")


def count_pages(path: Path, options: Options) -> int:
    """Number of slides."""
    return len(_open(path, options).slides)


def _open(path: Path, options: Options) -> Any:
    import pptx
    from pptx.exc import PythonPptxError

    try:
        with opened(path, options) as file:
            return pptx.Presentation(file)
    except PythonPptxError as error:
        raise ValueError(str(error)) from error


def _in_order(shapes: Any) -> list[Any]:
    """Top to bottom, then left to right; shapes whose place the layout decides come first."""
    return sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))


def _blocks(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for inner in _in_order(shape.shapes):
            yield from _blocks(inner)
        return
    yield picture(shape.name, _description(shape))
    if getattr(shape, "has_table", False):
        yield table(
            [
                [_cell(cell, shape.table, x, y) for x, cell in enumerate(row.cells)]
                for y, row in enumerate(shape.table.rows)
            ]
        )
    elif getattr(shape, "has_chart", False):
        yield joined((_chart_title(shape.chart), table(chart_rows(shape.chart._chartSpace))))
    elif shape.has_text_frame:
        yield "\n".join(_line(paragraph) for paragraph in shape.text_frame.paragraphs if paragraph.text.strip())


def _chart_title(chart: Any) -> str:
    return str(chart.chart_title.text_frame.text) if chart.has_title and chart.chart_title.has_text_frame else ""


def _cell(cell: Any, grid: Any, x: int, y: int) -> str:
    if not cell.is_spanned:
        return str(cell.text)
    while y and grid.cell(y, x)._tc.vMerge:
        y -= 1
    while x and grid.cell(y, x)._tc.hMerge:
        x -= 1
    return spanned(str(grid.cell(y, x).text))


def _line(paragraph: Any) -> str:
    text = one_line(paragraph.text)
    return f"{'    ' * (paragraph.level - 1)}- {text}" if paragraph.level else text


def _description(shape: Any) -> str:
    """Alternative text, unless it is a file name that PowerPoint put there."""
    found = shape._element.xpath(".//p:cNvPr/@descr")
    text = one_line(found[0]) if found else ""
    return "" if text.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".emf")) else text
