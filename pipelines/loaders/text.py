"""Plain text in any common encoding."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.loaders import Options, Sample, read_text
from pipelines.types import Page

#: "": a file without a suffix is read as text (README, LICENSE)
SUFFIXES = frozenset({".txt", ".text", ".log", ""})
MEDIA_TYPES = frozenset({"text/plain"})


def recognises(sample: Sample) -> bool:
    """Plain text has no mark of its own; its name decides."""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number."""
    yield Page(text=read_text(path, options))
