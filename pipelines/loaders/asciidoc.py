"""AsciiDoc as Markdown: headings, lists, tables, code and captions; includes are named, never followed."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import heading, table
from pipelines.types import Page

SUFFIXES = frozenset({".adoc", ".asciidoc", ".asc"})
MEDIA_TYPES = frozenset({"text/asciidoc", "text/x-asciidoc"})

_HEADING = re.compile(r"(={1,6}|#{1,6})[ \t]+(\S.*)")
_ITEM = re.compile(r"([ \t]*)(\*{1,5}|-|\.{1,5}|\d{1,3}\.)[ \t]+(\S.*)")
_TERM = re.compile(r"(\S.{0,200}?)(?:::|;;)(?:[ \t]+(.*))?$")
_IMAGE = re.compile(r"image::?([^\s\[]+)\[([^\]\n]{0,500})\]")
_LINK = re.compile(r"(?:link:|xref:|(?=https?://))([^\s\[\]]{1,500})\[([^\]\n]{1,300})\]")
_XREF = re.compile(r"<<[^,>\n]{1,200}(?:,([^>\n]{1,300}))?>>")
_ATTRIBUTE = re.compile(r":!?[\w-]{1,60}!?:(?:[ \t].*)?$")
_BLOCK_ATTRIBUTES = re.compile(r"\[[^\]\n]{0,300}\]$")
_LANGUAGE = re.compile(r"\[source(?:%\w+)?,[ \t]*([\w+#-]{1,30})")
_SPAN = re.compile(r"[ \t]+(?:\d+)?(?:\.\d+)?\+$")
_CELL_FORMAT = re.compile(r"(?:\d+(?:\.\d+)?\*)?(?:\d*(?:\.\d+)?\+)?[<^>]?(?:\.[<^>])?[adehlmsv]?$")
_FENCES = {"----": "----", "....": "....", "```": "```"}
_WRAPPERS = frozenset({"====", "****", "____", "--", "++++"})


def recognises(sample: Sample) -> bool:
    """AsciiDoc has no mark of its own; its name decides."""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number."""
    text = read_text(path, options).replace("\r\n", "\n")
    yield Page(text=_Reader(text.split("\n")).markdown())


class _Reader:
    """Goes over the lines once."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._place = 0
        self._out: list[str] = []
        self._language = ""

    def markdown(self) -> str:
        """The whole text as Markdown."""
        while self._place < len(self._lines):
            line = self._lines[self._place].rstrip()
            self._place += 1
            self._line(line)
        return "\n".join(self._out)

    def _line(self, line: str) -> None:
        if line in _FENCES:
            self._out += [f"```{self._language}", *self._until(line), "```"]
            self._language = ""
        elif line == "////":
            list(self._until(line))
        elif line[:4] in ("|===", ",===", ":==="):
            self._out += ["", table(_rows(list(self._until(line.strip())), line[0])), ""]
        elif line.startswith("//") or _ATTRIBUTE.match(line) or line in _WRAPPERS:
            self._out.extend([""] if line in _WRAPPERS else [])
        elif _BLOCK_ATTRIBUTES.match(line):
            found = _LANGUAGE.match(line)
            self._language = found.group(1) if found else ""
        else:
            self._out.append(_inline(_structure(line)))

    def _until(self, fence: str) -> Iterator[str]:
        """Lines up to the one that closes the block."""
        while self._place < len(self._lines):
            line = self._lines[self._place].rstrip()
            self._place += 1
            if line == fence:
                return
            yield line


def _structure(line: str) -> str:
    found = _HEADING.match(line)
    if found:
        return heading(found.group(2), len(found.group(1)))
    found = _ITEM.match(line)
    if found:
        space, mark, text = found.groups()
        depth = len(mark) - 1 if mark[0] in "*." else 0
        return f"{'    ' * max(depth, len(space.expandtabs(4)) // 2)}{'1.' if mark[0] in '.0123456789' else '-'} {text}"
    if line.startswith(".") and line[1:2].strip(". "):
        return f"{line[1:]}\n"  # the title of the block below
    if line == "+":
        return ""
    found = _TERM.match(line)
    return f"- {found.group(1)}: {found.group(2) or ''}".rstrip() if found and "://" not in line else line


def _inline(line: str) -> str:
    line = _IMAGE.sub(lambda found: f"![{found.group(2).split(',')[0]}]({found.group(1)})", line)
    line = _LINK.sub(lambda found: found.group(2), line)
    return _XREF.sub(lambda found: found.group(1) or "", line)


def _rows(lines: list[str], mark: str) -> list[list[str]]:
    """Cells of a table. Columns are as many as the first line has, or as there are up to the first blank line."""
    if mark != "|":
        return [line.split(mark) for line in lines if line.strip()]
    cells: list[str] = []
    width = 0
    for line in lines:
        before, *parts = line.split("|")
        if cells and not _CELL_FORMAT.match(before.strip()):
            cells[-1] += " " + before.strip()
        found = [_SPAN.sub("", part).strip() for part in parts]
        if width and len(found) > width and not found[-1]:
            found.pop()  # a mark at the end of the line, as Markdown has it
        cells.extend(found)
        width = width or len(cells)
    return [cells[i : i + width] for i in range(0, len(cells), width)] if width else []
