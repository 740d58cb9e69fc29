"""Pictures of text: scans, photographs, screenshots. They are read by the extra `ocr`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import UnreadableDocument, UnsupportedDocument
from pipelines.loaders import Options, Sample, _ocr
from pipelines.types import Page

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
MEDIA_TYPES = frozenset({"image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp", "image/gif"})

_MARKS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
#: dots of a picture that is not opened at all
_MOST_DOTS = 100_000_000


def recognises(sample: Sample) -> bool:
    """By the marks of the formats."""
    head = sample.head
    return head.startswith(_MARKS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page for each picture of a TIFF, numbered if there are several; one for anything else.

    Raises UnsupportedDocument without the extra, UnreadableDocument for a picture that is too large or shows no text.
    """
    if not (options.ocr and _ocr.is_installed()):
        raise UnsupportedDocument(f"{path.name} is a picture: {_ocr.MISSING}")
    with opened(path) as picture:
        count = frames(picture)
        for frame in range(count):
            picture.seek(frame)
            yield _page(picture, frame + 1, count, options)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A picture, its dots not read yet. Raises UnreadableDocument for one that has too many, ValueError for damage."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = _MOST_DOTS // 2  # twice as many are an error
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            yield picture
    except UnidentifiedImageError as error:
        raise ValueError("no picture that can be read") from error
    except Image.DecompressionBombError:
        raise UnreadableDocument(
            f"{path.name} has more than {_MOST_DOTS // 10**6} million dots: make it smaller"
        ) from None


def frames(picture: Any) -> int:
    """Pages of a TIFF; 1 for anything else, whatever moves in it."""
    return int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1


def upright(picture: Any) -> Any:
    """The picture in RGB, as the camera was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture).convert("RGB")


def _page(picture: Any, number: int, count: int, options: Options) -> Page:
    import numpy as np

    whole = upright(picture)
    shrink = min(1.0, (_ocr.MOST_DOTS / (whole.width * whole.height)) ** 0.5)
    if shrink < 1:
        whole = whole.resize((int(whole.width * shrink), int(whole.height * shrink)))
    with options.slow(_ocr.PAGE_SECONDS):
        lines = _ocr.recognise(np.asarray(whole))
    if options.layout:
        options.layout(number, _ocr.layout(lines, (whole.width / shrink, whole.height / shrink), shrink))
    return Page(text=_ocr.as_text(lines), number=number if count > 1 else None)
