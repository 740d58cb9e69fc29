"""Pages as pictures, with a box for each word, so that a citation can be shown where it stands."""

from collections.abc import Iterator
from contextlib import closing
from ctypes import byref, c_int
from pathlib import Path
from typing import Any

from pipelines.errors import NotFound, UnreadableDocument, UnsupportedDocument
from pipelines.loaders import Layout, Options, Word, find, image, pdf

#: dots per inch of a page, and the most dots of a picture
DPI, MOST_DOTS = 110, 6_000_000
#: pdfium gives places on a device in whole dots: so many of them a point
_FINE = 20


def draw(path: Path, name: str, number: int, out: Path, options: Options) -> Layout:
    """Write page `number` (from 1) of a PDF or a picture as PNG; give where its words stand.

    A picture has no words of its own; what OCR found on it is kept elsewhere. Raises NotFound for a page that is not
    there, UnsupportedDocument for a kind that has no pages to look at, LockedDocument and UnreadableDocument.
    """
    loader = find(path, name)
    if loader is pdf:
        return _pdf(path, name, number, out, options)
    if loader is image:
        return _image(path, name, number, out)
    raise UnsupportedDocument(f"{name} has no pages to be shown: only PDF files and pictures have")


def _pdf(path: Path, name: str, number: int, out: Path, options: Options) -> Layout:
    with closing(pdf.opened(path, options)) as document:
        if not 1 <= number <= len(document):
            raise NotFound(f"{name} has no page {number}: it has {len(document)}")
        with closing(document[number - 1]) as page, closing(page.get_textpage()) as content:
            width, height = page.get_size()
            scale = min(DPI / 72, (MOST_DOTS / max(1.0, width * height)) ** 0.5)
            if min(width, height) * scale < 1:
                raise UnreadableDocument(f"page {number} of {name} is too narrow to be drawn")
            page.render(scale=scale).to_pil().save(out, "PNG")
            return Layout(width=width, height=height, words=tuple(_words(page, content)))


def _words(page: Any, content: Any) -> Iterator[Word]:
    """Runs of characters without white space between them; wide characters (Chinese, Japanese) stand for themselves."""
    text = content.get_text_range(errors="replace")
    boxes: list[tuple[float, float, float, float]] = []
    letters = ""
    count = min(content.count_chars(), len(text))
    for index in range(count):
        char = text[index]
        if not char.isspace():
            letters += char
            boxes.append(_box(page, *content.get_charbox(index)))
        ends = char.isspace() or index + 1 == count or char >= "\u3000" or text[index + 1] >= "\u3000"
        if letters and ends:
            left, top, right, bottom = zip(*boxes, strict=True)
            yield Word(letters, (min(left), min(top), max(right), max(bottom)))
            letters, boxes = "", []


def _box(page: Any, left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
    """A box of the page's own space as the reader sees it: rotated, cropped, from the top left corner."""
    corners = [_seen(page, x, y) for x, y in ((left, bottom), (right, top))]
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _seen(page: Any, x: float, y: float) -> tuple[float, float]:
    from pypdfium2 import raw

    width, height = page.get_size()
    across, down = c_int(), c_int()
    raw.FPDF_PageToDevice(page, 0, 0, int(width * _FINE), int(height * _FINE), 0, x, y, byref(across), byref(down))
    return across.value / _FINE, down.value / _FINE


def _image(path: Path, name: str, number: int, out: Path) -> Layout:
    with image.opened(path) as picture:
        if not 1 <= number <= image.frames(picture):
            raise NotFound(f"{name} has no page {number}")
        picture.seek(number - 1)
        whole = image.upright(picture)
        width, height = whole.size
        whole.thumbnail((2000, 2000))
        whole.save(out, "PNG")
    return Layout(width=width, height=height, words=())
