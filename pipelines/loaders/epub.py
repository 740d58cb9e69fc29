"""Electronic books (EPUB 2 and 3): one page for each chapter file, in reading order, read as web pages."""

import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipelines.encoding import decode
from pipelines.loaders import Options, Sample, html, locked
from pipelines.loaders._xml import name_of, parse
from pipelines.markup import heading, one_line
from pipelines.types import Page

SUFFIXES = frozenset({".epub"})
MEDIA_TYPES = frozenset({"application/epub+zip"})

_FIELDS = {"creator": "Authors", "publisher": "Publisher", "date": "Date", "language": "Language",
           "description": "Description", "subject": "Subject"}  # fmt: skip
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def recognises(sample: Sample) -> bool:
    """The first member of the zip says what it is (EPUB 3.3, 4.2.6.3)."""
    return b"mimetypeapplication/epub+zip" in sample.head[:128]


def load(path: Path, options: Options) -> Iterator[Page]:
    """First what the book says of itself, then its chapters; the first heading of each is the page's title."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if "META-INF/rights.xml" in names:
            raise locked(path, options, "it is copy-protected: add a version without protection")
        package_path = _package(archive)
        package = parse(archive.read(package_path))
        yield _about(package)
        for name in _spine(package, posixpath.dirname(package_path)):
            if name not in names:
                options.remark(f"{path.name} lacks its chapter {name}")
                continue
            title, body = html.read(decode(archive.read(name), name))
            found = _HEADING.search(body)
            yield Page(text=body, title=one_line(found.group(1)) if found else title)


def _package(archive: zipfile.ZipFile) -> str:
    for element in parse(archive.read("META-INF/container.xml")).iter():
        if name_of(element) == "rootfile":
            return str(element.get("full-path"))
    raise ValueError("no package document is named in META-INF/container.xml")


def _about(package: Any) -> Page:
    fields: dict[str, list[str]] = {}
    for element in package.iter():
        parent = element.getparent()
        if parent is not None and name_of(parent) == "metadata" and (element.text or "").strip():
            fields.setdefault(name_of(element), []).append(one_line(element.text))
    title = ", ".join(fields.get("title", []))
    lines = [f"{label}: {', '.join(fields[name])}" for name, label in _FIELDS.items() if name in fields]
    return Page(text="\n\n".join(part for part in (heading(title, 1), "\n".join(lines)) if part), title=title)


def _spine(package: Any, folder: str) -> Iterator[str]:
    """Names of the chapter files in reading order; the navigation page is left out."""
    items = {item.get("id"): item for item in package.iter() if name_of(item) == "item"}
    for reference in package.iter():
        item = items.get(reference.get("idref")) if name_of(reference) == "itemref" else None
        if item is not None and "nav" not in (item.get("properties") or "").split():
            yield posixpath.normpath(posixpath.join(folder, unquote(item.get("href", "")))).lstrip("/")
