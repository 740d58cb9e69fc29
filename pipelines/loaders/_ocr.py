"""Text in pictures, by RapidOCR: PP-OCR models that lie in its package, run by OpenVINO. The extra `ocr`.

One model reads Chinese, Japanese, English and the other languages of the Latin script. Nothing is downloaded.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from statistics import mean, median
from typing import Any

from pipelines.loaders import Layout, Word
from pipelines.markup import one_line

#: what to do where the extra is missing, to end a message
MISSING = "install the extra that reads pictures (pip install 'deepwell[ocr]') and add it again"
#: dots per inch a page is drawn with, and the most dots of one picture
DPI, MOST_DOTS = 200, 12_000_000
#: seconds that a page may take beyond the document's limit
PAGE_SECONDS = 60.0
#: recognised with less than this is noise
_LEAST = 0.5
#: letters that the lines of a column have on average; with fewer it is a column of a table
_COLUMN_LETTERS = 18
_WIDE = re.compile("[\u3041-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Line:
    """A recognised line: text, confidence 0..1, box in dots (left, top, right, bottom)."""

    text: str
    confidence: float
    box: tuple[float, float, float, float]

    @property
    def height(self) -> float:
        """Dots from top to bottom."""
        return self.box[3] - self.box[1]

    @property
    def width(self) -> float:
        """Dots from left to right."""
        return self.box[2] - self.box[0]


def is_installed() -> bool:
    """Whether the extra `ocr` is there."""
    return find_spec("rapidocr") is not None


def recognise(image: Any) -> list[Line]:
    """Lines of a picture (height x width x 3, RGB, uint8) in reading order."""
    found = _engine()(image[:, :, ::-1], use_det=True, use_cls=True, use_rec=True)  # it expects BGR
    if found.boxes is None or not found.txts:
        return []
    lines = []
    for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        if score >= _LEAST and text.strip():
            xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
            lines.append(Line(one_line(text), float(score), (min(xs), min(ys), max(xs), max(ys))))
    tall = [line for line in lines if len(line.text) > 2 and line.height > 1.5 * line.width]
    if len(tall) * 2 > len(lines):
        rightmost_first = bool(_WIDE.search(tall[0].text)) or _reads_down(
            image, max(tall, key=lambda line: line.height)
        )
        return sorted(lines, key=lambda line: -line.box[2] if rightmost_first else line.box[0])
    return in_order(lines)


def _reads_down(image: Any, line: Line) -> bool:
    """Whether a line of a page that lies on its side reads from top to bottom: then its head is on the right."""
    left, top, right, bottom = (max(0, int(value)) for value in line.box)
    crop = image[top:bottom, left:right, ::-1]
    down, up = (
        _engine()(crop.swapaxes(0, 1)[turn].copy(), use_det=False, use_cls=False, use_rec=True).scores
        for turn in ((slice(None, None, -1), slice(None)), (slice(None), slice(None, None, -1)))
    )
    return sum(down or ()) >= sum(up or ())


@cache
def _engine() -> Any:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports its use; see connectors/e5
    from rapidocr import EngineType, RapidOCR

    parts = {f"{part}.engine_type": EngineType.OPENVINO for part in ("Det", "Cls", "Rec")}
    threads = max(1, min(4, os.cpu_count() or 1))
    return RapidOCR(
        params={
            **parts,
            "Global.log_level": "critical",
            "EngineConfig.openvino.inference_num_threads": threads,
            "Global.max_side_len": 2400,
        }
    )


def in_order(lines: Sequence[Line]) -> list[Line]:
    """Reading order of horizontal lines: columns of running text one after another, rows from left to right else."""
    return _columns(list(lines))


def _columns(lines: list[Line]) -> list[Line]:
    """Lines of a block: what runs over the gutter parts the columns above it from those below."""
    gutter = _gutter(lines)
    if gutter is None:
        return [line for row in _rows(lines) for line in row]
    ordered: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for line in sorted(lines, key=lambda line: line.box[1]):
        if line.box[2] <= gutter + 1:
            left.append(line)
        elif line.box[0] >= gutter - 1:
            right.append(line)
        else:
            ordered += [*_columns(left), *_columns(right), line]
            left, right = [], []
    return [*ordered, *_columns(left), *_columns(right)]


def _rows(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines that stand at one height, from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        if rows and _beside(rows[-1][0], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box[0]) for row in rows]


def _gutter(lines: Sequence[Line]) -> float | None:
    """Where a vertical strip parts two columns of running text; at most a sixth of the lines may cross it."""
    if len(lines) < 8:
        return None
    begin, end = min(line.box[0] for line in lines), max(line.box[2] for line in lines)
    best: tuple[int, float, float] | None = None
    for step in range(5, 16):
        place = begin + (end - begin) * step / 20
        sides = [line for line in lines if line.box[2] <= place or line.box[0] >= place]
        left = [line for line in sides if line.box[2] <= place]
        right = [line for line in sides if line.box[0] >= place]
        crossing = len(lines) - len(sides)
        if crossing * 6 > len(lines) or len(left) < 3 or len(right) < 3:
            continue
        if min(mean(len(line.text) for line in side) for side in (left, right)) < _COLUMN_LETTERS:
            continue
        key = (crossing, abs(step - 10.0), place)
        best = min(best, key) if best else key
    return best[2] if best else None


def as_text(lines: Sequence[Line]) -> str:
    """Lines as text; those that stand beside each other are one row, its cells parted by " | "."""
    rows: list[list[Line]] = []
    for line in lines:
        before = rows[-1][-1] if rows else None
        if before and line.box[0] >= before.box[2] - 2 and _beside(before, line):
            rows[-1].append(line)
        else:
            rows.append([line])
    if not rows:
        return ""
    usual = median(line.height for line in lines)
    parts = [" | ".join(line.text for line in rows[0])]
    for above, row in pairwise(rows):
        gap = row[0].box[1] - above[0].box[3]
        parts.append(("\n\n" if gap > usual else "\n") + " | ".join(line.text for line in row))
    return "".join(parts).replace("\n#", "\n #")  # a number sign is no heading


def _beside(one: Line, other: Line) -> bool:
    overlap = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    return overlap > 0.5 * min(one.height, other.height)


def layout(lines: Sequence[Line], size: tuple[float, float], scale: float) -> Layout:
    """Where the lines stand on a page of `size` points that was drawn with `scale` dots a point."""
    words = tuple(Word(line.text, _scaled(line.box, 1 / scale)) for line in lines)
    confidence = mean(line.confidence for line in lines) if lines else 0.0
    return Layout(width=size[0], height=size[1], words=words, source="ocr", confidence=round(confidence, 3))


def _scaled(box: tuple[float, float, float, float], factor: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(value * factor, 1) for value in box)
    return left, top, right, bottom
