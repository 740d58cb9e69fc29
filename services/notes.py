"""What is kept of a document's content beside its passages: remarks of the parser, and where OCR found words on pages.

One JSON file for each content, under its hash; it goes with the content.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.parsing_child import NOTES as NAME

#: folder in the data directory
FOLDER = "notes"

__all__ = ["FOLDER", "NAME", "Notes", "forget", "keep", "read"]


@dataclass(frozen=True, slots=True)
class Notes:
    """Remarks in words, and layouts of pages by number as `pipelines.loaders.Layout` has them."""

    remarks: tuple[str, ...] = ()
    layouts: dict[int, dict[str, Any]] = field(default_factory=dict)


def keep(path: Path, data_dir: Path, sha256: str) -> None:
    """Take over what the parser wrote; nothing, and no older notes either, if it wrote none."""
    if path.exists():
        (data_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        os.replace(path, _path(data_dir, sha256))
    else:
        forget(data_dir, sha256)


def read(data_dir: Path, sha256: str) -> Notes:
    """Notes of a content; empty ones if there are none."""
    try:
        found = json.loads(_path(data_dir, sha256).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Notes()
    return Notes(tuple(found["remarks"]), {int(number): layout for number, layout in found["layouts"].items()})


def forget(data_dir: Path, sha256: str) -> None:
    """Remove the notes of a content."""
    _path(data_dir, sha256).unlink(missing_ok=True)


def _path(data_dir: Path, sha256: str) -> Path:
    return data_dir / FOLDER / f"{sha256}.json"
