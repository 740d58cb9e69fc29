"""PDF by pypdfium2, page by page: fast, and right for Chinese, Japanese and Korean."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Sample
from pipelines.types import Page

SUFFIXES = frozenset({".pdf"})
MEDIA_TYPES = frozenset({"application/pdf"})

_PASSWORD = 4  # FPDF_ERR_PASSWORD in pdfium's fpdfview.h
# Ligatures (U+FB00-FB06) and Kangxi radicals (U+2F00-2FD5) stand for ordinary letters and hide them from a search.
_LOOKALIKES = re.compile("[\u2f00-\u2fd5\ufb00-\ufb06]")
# Bullets of Microsoft's symbol fonts, which have no Unicode of their own; and of cp1252's C1 leftovers.
_BULLETS = str.maketrans({"\uf0b7": "•", "\uf0a7": "▪", "\uf0a8": "□", "\uf0fc": "✓", "\uf0d8": "➢", "\x84": "•"})
_BULLET = re.compile("[\uf0a7-\uf0fc\x84]")
# pdfium joins a word that was hyphenated at a line end and puts U+FFFE in the place of the hyphen.
_HYPHEN = re.compile("(\\w{0,40})\ufffe(\\w{0,40})")
_HYPHENATED = 0.04
_WIDE = re.compile("[\u3041-\u3096\u30a1-\u30fc\u3400-\u9fff、，]")
_WRAP = re.compile("[\u3041-\u3096\u30a1-\u30fc\u3400-\u9fff、，] *\r?\n[\u3041-\u3096\u30a1-\u30fc\u3400-\u9fff]")
#: least characters of a line that may have been wrapped
_FULL_LINE = 18


def recognises(sample: Sample) -> bool:
    """The mark stands in the first 1,024 bytes (ISO 32000-1, 7.5.2 and Annex H)."""
    return b"%PDF-" in sample.head[:1024]


def load(path: Path) -> Iterator[Page]:
    """Pages with their numbers, in pdfium's reading order.

    Raises UnreadableDocument if a password is needed, or if no page holds text: then it is a scan.
    """
    empty = True
    with closing(_open(path)) as document:
        for index in range(len(document)):
            with closing(document[index]) as page, closing(page.get_textpage()) as content:
                text = _tidy(content.get_text_range(errors="replace"))
            empty = empty and not text.strip()
            yield Page(text=text, number=index + 1)
    if empty:
        raise UnreadableDocument(f"{path.name} holds no text (scanned?): add a version with a text layer")


def count_pages(path: Path) -> int:
    """Number of pages. Raises UnreadableDocument as `load` does."""
    with closing(_open(path)) as document:
        return len(document)


def _open(path: Path) -> Any:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PASSWORD:
            raise UnreadableDocument(
                f"{path.name} needs a password to be opened: save a copy without one and add that"
            ) from None
        raise UnreadableDocument(f"{path.name} is a damaged PDF: {error}") from None


def _tidy(text: str) -> str:
    if text.isascii():
        return text
    if "\ufffe" in text:
        text = _join_hyphens(text)
    if _BULLET.search(text):
        text = text.translate(_BULLETS)
    text = _LOOKALIKES.sub(lambda found: unicodedata.normalize("NFKC", found.group()), text)
    return _join_wide_lines(text) if _WRAP.search(text) else text


def _join_wide_lines(text: str) -> str:
    """Join Japanese and Chinese lines that were only wrapped, or their words could not be found over a line end.

    A line is taken for wrapped if it is nearly as long as the long lines of its page; others end where they end.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    lengths = sorted(map(len, lines))
    full = max(_FULL_LINE, 0.85 * lengths[len(lengths) * 9 // 10])
    joined = lines[:1]
    length = len(lines[0])
    for line in lines[1:]:
        before = joined[-1].rstrip()
        if length >= full and line and _WIDE.match(before[-1:]) and _WIDE.match(line[0]):
            joined[-1] = before + line
        else:
            joined.append(line)
        length = len(line)
    return "\n".join(joined)


def _join_hyphens(text: str) -> str:
    """Put broken words together where the page hyphenates (many line ends do); keep the hyphen elsewhere.

    A page with few of them breaks only at the hyphens that words have anyway ("cloud-based").
    """
    joins = text.count("\ufffe") >= _HYPHENATED * (text.count("\n") + 1)

    def mend(found: re.Match[str]) -> str:
        left, right = found.groups()
        compound = f"{left}-{right}"
        same_case = left[-1:].isalpha() and (right[:1].islower() or (left.isupper() and right.isupper()))
        return left + right if joins and same_case and compound not in text else compound

    return _HYPHEN.sub(mend, text)
