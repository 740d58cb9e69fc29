"""Word, Excel and PowerPoint files of before 2007, by kreuzberg (in Rust, without Office): extra `documents`."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import UnsupportedDocument
from pipelines.loaders import Options, Sample
from pipelines.loaders._office import unlocked
from pipelines.types import Page

SUFFIXES = frozenset({".doc", ".dot", ".ppt", ".pps", ".xls", ".xlt"})
MEDIA_TYPES = frozenset({"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"})

_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
#: the stream that says which program a file is of, and kreuzberg's name for it
_STREAMS = {"WordDocument": "application/msword", "PowerPoint Document": "application/vnd.ms-powerpoint",
            "Workbook": "application/vnd.ms-excel", "Book": "application/vnd.ms-excel"}  # fmt: skip

#: marks that kreuzberg escapes although they mean nothing where they stand; "|" in tables does
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{}~])")
_SLIDE = re.compile(r"^-{5}$", re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def recognises(sample: Sample) -> bool:
    """OLE files are of many kinds; the directory that tells them apart may lie anywhere, so the name decides."""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number for a text, a page for each sheet or slide of the others, where they are told apart."""
    data = unlocked(path, options)
    kind = _kind(data, path.name)
    try:
        import kreuzberg
    except ImportError:
        raise UnsupportedDocument(
            f"{path.name} is an Office file of before 2007: install the extra that reads these (pip install "
            f"'deepwell[documents]'), or save it in today's format and add that"
        ) from None
    settings = kreuzberg.ExtractionConfig(output_format="markdown", use_cache=False, enable_quality_processing=False)
    try:
        result: Any = kreuzberg.extract_bytes_sync(data, kind, config=settings)
    except kreuzberg.KreuzbergError as error:
        raise ValueError(str(error)) from error
    yield from _pages(_ESCAPE.sub(r"\1", result.content), kind)


def _pages(text: str, kind: str) -> Iterator[Page]:
    """Slides are parted by rules, sheets have headings with their names."""
    if kind.endswith("powerpoint"):
        for number, slide in enumerate(filter(str.strip, _SLIDE.split(text)), 1):
            found = _HEADING.search(slide)
            yield Page(text=slide, number=number, title=found.group(1) if found else f"Slide {number}")
    elif kind.endswith("excel"):
        _, *parts = _HEADING.split(text)
        for number, (name, sheet) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
            yield Page(text=sheet, number=number, title=name)
    else:
        yield Page(text=text)


def _kind(data: bytes, name: str) -> str:
    if not data.startswith(_OLE):
        raise ValueError("not an Office file of before 2007")
    import olefile

    with olefile.OleFileIO(io.BytesIO(data)) as ole:
        kind = next((kind for stream, kind in _STREAMS.items() if ole.exists(stream)), "")
    if not kind:
        raise UnsupportedDocument(f"{name} is an OLE file of a kind Deepwell cannot read")
    return kind
