"""Markdown and plain text as loaders write them and splitters read them."""

import re
import unicodedata
from collections.abc import Sequence

_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u200b\u2028\u2029\u2060\ufeff\ufffe\uffff\ud800-\udfff]")
_LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_TRAILING = re.compile(r"(?<![ \t])[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile(r"\s+")


def clean(text: str) -> str:
    """NFC with "\\n" line ends: no NUL, control, zero-width or private line-break characters, no blank-line runs."""
    text = text.replace("\r\n", "\n")
    if _ODD.search(text):
        text = _ODD.sub("", _LINE_BREAKS.sub("\n", text).replace("\xa0", " "))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text:
        text = _TRAILING.sub("\n", text).rstrip(" \t")
    return (_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip("\n").rstrip()


def one_line(text: str) -> str:
    """Text with every run of white space as one space."""
    return _SPACES.sub(" ", text).strip()


def heading(text: str, level: int) -> str:
    """A Markdown heading; levels beyond 6 become 6. "" for an empty text."""
    text = one_line(text)
    return f"{'#' * min(max(level, 1), 6)} {text}" if text else ""


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first row as header; short rows are padded, empty rows and columns left out.

    A table of one column is no table: its cells become lines.
    """
    filled = [[one_line(cell) for cell in row] for row in rows]
    filled = [row for row in filled if any(row)]
    columns = [i for i in range(max(map(len, filled), default=0)) if any(i < len(row) and row[i] for row in filled)]
    if len(columns) < 2 or len(filled) < 2:
        return "\n".join(" | ".join(cell for cell in row if cell) for row in filled)
    lines = [_row([row[i] if i < len(row) else "" for i in columns]) for row in filled]
    return "\n".join((lines[0], "| " + " | ".join(["---"] * len(columns)) + " |", *lines[1:]))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spanned(text: str) -> str:
    """What a place under a merged cell repeats: short texts, so that each row can be read alone; "" for long ones."""
    return text if len(text) <= 40 else ""
