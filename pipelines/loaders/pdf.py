"""PDF by pypdfium2, page by page: fast, and right for Chinese, Japanese and Korean; OCR for the pages that need it."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, Sample, _ocr, _tables, locked
from pipelines.loaders._headings import mark
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
#: a page with fewer characters is looked at for pictures
_SPARSE = 300
#: share of a page under pictures from which on these may hold its text
_COVERED = 0.15
#: drawn shapes from which on a page without text may be text as outlines
_OUTLINES = 50
#: shapes that are looked at
_MOST_OBJECTS = 2000
#: dots of an embedded picture that is still drawn
_MOST_IMAGE_DOTS = 200_000_000
#: share of characters without a meaning from which on a text layer is worth nothing
_GARBLED = 0.2
_LETTERS = re.compile(r"[\W_]+")
#: least characters of a line that may have been wrapped
_FULL_LINE = 18


def recognises(sample: Sample) -> bool:
    """The mark stands in the first 1,024 bytes (ISO 32000-1, 7.5.2 and Annex H)."""
    return b"%PDF-" in sample.head[:1024]


def load(path: Path, options: Options) -> Iterator[Page]:
    """Pages with their numbers, in pdfium's reading order; pages that are pictures, or whose text is garbled, by OCR.

    A page is judged by itself: text layer first, and OCR only where that says nothing. Raises LockedDocument for a
    missing or wrong password, UnreadableDocument if no page holds text.
    """
    ocr = options.ocr and _ocr.is_installed()
    empty, unread = True, []
    with closing(opened(path, options)) as document, _looking(path, options) as tables:
        for index in range(len(document)):
            with closing(document[index]) as page, closing(page.get_textpage()) as content:
                text = content.get_text_range(errors="replace")
                found = tables.of(page, content, index) if tables else []
                text = _tidy(_tables.put_back(mark(content, _tables.take_out(content, text, found)), found))
                if len(text) < _SPARSE or _is_garbled(text):
                    if ocr and _is_picture(page, text):
                        text = _recognised(page, index + 1, text, options)
                    elif _is_picture(page, text):
                        unread.append(index + 1)
            empty = empty and not text.strip()
            yield Page(text=text, number=index + 1)
    if empty:
        what = _ocr.MISSING if unread else "add a version with a text layer"
        raise UnreadableDocument(f"{path.name} holds no text (scanned?): {what}")
    if unread:
        options.remark(f"pages {', '.join(map(str, unread))} are pictures that were not read: {_ocr.MISSING}")


@contextmanager
def _looking(path: Path, options: Options) -> Iterator["_tables.Tables | None"]:
    """Whoever looks for tables, if they are wanted and can be found."""
    if not options.tables:
        yield None
    elif not _tables.is_installed():
        options.remark(f"its tables stay lines of text: {_tables.MISSING}")
        yield None
    else:
        with closing(_tables.Tables(path, options)) as tables:
            yield tables


def count_pages(path: Path, options: Options) -> int:
    """Number of pages. Raises UnreadableDocument as `load` does."""
    with closing(opened(path, options)) as document:
        return len(document)


def opened(path: Path, options: Options) -> Any:
    """The document, to be closed. Raises LockedDocument, or UnreadableDocument for a damaged one."""
    import pypdfium2

    # without a password first: one that goes with a batch must not close the files that need none
    for password in dict.fromkeys((None, options.password or None)):
        try:
            return pypdfium2.PdfDocument(path, password=password)
        except pypdfium2.PdfiumError as error:
            if error.err_code != _PASSWORD:
                raise UnreadableDocument(f"{path.name} is a damaged PDF: {error}") from None
    raise locked(path, options)


def _is_garbled(text: str) -> bool:
    """Whether a text layer says nothing: fonts without a table of Unicode give private and unassigned characters."""
    if text.isascii():
        return False
    return sum(text.count(char) for char in set(text) if _is_odd(char)) > _GARBLED * len(text)


@lru_cache(maxsize=1 << 14)
def _is_odd(char: str) -> bool:
    """Whether a character has no meaning. Asked once for each character of a page: by letter it cost 0.18 of pdfium."""
    return char == "\ufffd" or unicodedata.category(char) in ("Co", "Cn", "Cs")


def _is_picture(page: Any, text: str) -> bool:
    """Whether there is something to see that the text does not say: pictures over a part of the page, or drawn text."""
    from pypdfium2 import raw

    area = page.get_width() * page.get_height()
    kinds = [raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_SHADING]
    covered, paths = 0.0, 0
    for thing in islice(page.get_objects(filter=kinds, max_depth=3), _MOST_OBJECTS):
        if thing.type == raw.FPDF_PAGEOBJ_IMAGE:
            if prod(thing.get_px_size()) > _MOST_IMAGE_DOTS:
                return False  # drawing it takes gigabytes: a bomb, or a map
            left, bottom, right, top = thing.get_bounds()
            covered += max(0.0, right - left) * max(0.0, top - bottom)
        else:
            paths += 1
    return covered > _COVERED * area or (paths > _OUTLINES and not text.strip()) or _is_garbled(text)


def _recognised(page: Any, number: int, text: str, options: Options) -> str:
    """What OCR reads on a page; lines of its text layer that OCR did not see stay in front (a hybrid page)."""
    width, height = page.get_size()
    scale = min(_ocr.DPI / 72, (_ocr.MOST_DOTS / max(1.0, width * height)) ** 0.5)
    if width * scale < 1 or height * scale < 1:  # a page so long and thin that nothing can stand on it
        return text
    with options.slow(_ocr.PAGE_SECONDS):
        lines = _ocr.recognise(page.render(scale=scale, rev_byteorder=True).to_numpy()[:, :, :3])
    if not lines:
        return text
    if options.layout:
        options.layout(number, _ocr.layout(lines, (width, height), scale))
    seen = _ocr.as_text(lines)
    if _is_garbled(text):
        return seen
    known = _LETTERS.sub("", seen)
    missed = [line for line in text.splitlines() if (bare := _LETTERS.sub("", line)) and bare not in known]
    return "\n".join((*missed, seen))


def _tidy(text: str) -> str:
    if text.isascii():
        return text
    if max(text) < "\u2f00":  # nothing of what follows, but for one character
        return text.translate(_BULLETS) if "\x84" in text else text
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
        if length >= full and line and not before.startswith("#") and _WIDE.match(before[-1:]) and _WIDE.match(line[0]):
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
