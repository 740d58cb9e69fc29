"""A folder on the machine of the worker, with its subfolders; without hidden files and links that lead out of it."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import BadRequest, NotFound, SourceUnavailable

OPTIONS: dict[str, str] = {}
CREDENTIALS: dict[str, str] = {}
SCHEDULE = "1h"

#: files of other programs that nobody wants to find
JUNK = ("~$", "Thumbs.db", "desktop.ini")
#: a file that changed so shortly before it was looked at may change again within the same tick of the clock
TICK_SECONDS = 2.0
LISTED_AT_ONCE = 500


def check(spec: Spec) -> Spec:
    """Raises BadRequest for what is no folder."""
    path = Path(spec.location).expanduser()
    if not path.is_absolute():
        raise BadRequest(f"{spec.location} is a relative path: give the folder's whole path")
    if not path.is_dir():
        raise BadRequest(f"{path} is not a folder on the machine where Deepwell runs")
    return replace(spec, location=str(path.resolve()))


def open_source(spec: Spec) -> Source:
    """The folder; it is looked at when it is listed."""
    return Folder(Path(spec.location))


class Folder:
    """A folder as a source: an external id is a path inside it, a version the time of change and the size."""

    parallel = 4

    def __init__(self, root: Path) -> None:
        self._root = root

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Every file, by path. Raises SourceUnavailable if the folder itself cannot be read."""
        found = self._walk()
        while batch := await asyncio.to_thread(_some, found):
            for one in batch:
                yield one

    def _walk(self) -> Iterator[Item | Unlisted]:
        waiting = [""]
        while waiting:
            inner = waiting.pop()
            try:
                entries = sorted(os.scandir(self._root / inner), key=lambda entry: entry.name)
            except OSError as error:
                if not inner:
                    raise SourceUnavailable(f"{self._root} cannot be read: {error.strerror}") from None
                yield Unlisted(prefix=f"{inner}/", reason=f"{inner} cannot be read: {error.strerror}")
                continue
            for entry in entries:
                path = f"{inner}/{entry.name}" if inner else entry.name
                if entry.name.startswith((".", *JUNK)):
                    continue
                if not _is_text(path):
                    name = path.encode("utf-8", "replace").decode()
                    yield Unlisted(prefix=name, reason=f"the name {name} is not in UTF-8: rename it")
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif item := self._item(path):
                    yield item

    def _item(self, path: str) -> Item | None:
        try:
            real = (self._root / path).resolve()
            found = real.stat()
        except OSError:  # gone since it was listed, or a link to nothing
            return None
        if not stat.S_ISREG(found.st_mode) or not real.is_relative_to(self._root):
            return None
        return Item(external_id=path, name=path, version=_version(found), size=found.st_size)

    @asynccontextmanager
    async def fetch(self, item: Item, known: str) -> AsyncIterator[Fetched | None]:
        """The file. Raises NotFound if it has gone, SourceUnavailable if it may not be read or is being written."""
        path = self._root / item.external_id
        try:
            file = await asyncio.to_thread(self._open, path)
        except FileNotFoundError:
            raise NotFound(f"{path} has gone") from None
        except OSError as error:
            raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from None
        try:
            version = _version(os.fstat(file.fileno()))
            yield Fetched(content=_Reading(file, path), version=version, address=str(path))
        finally:
            file.close()

    def _open(self, path: Path) -> BinaryIO:
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._root):
            raise FileNotFoundError(path)
        return real.open("rb")

    async def close(self) -> None:
        """Nothing is open."""


class _Reading:
    """A file that must stay as it is while it is read: half of an old version and half of a new one is no document."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._before = _mark(file)

    async def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes. Raises SourceUnavailable at the end if the file changed meanwhile."""
        try:
            piece = await asyncio.to_thread(self._file.read, size)
        except OSError as error:
            raise SourceUnavailable(f"{self._path} cannot be read: {error.strerror}") from None
        if not piece and _mark(self._file) != self._before:
            raise SourceUnavailable(f"{self._path} was written while it was read: the next sync takes it")
        return piece


def _mark(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_mtime_ns, found.st_size


def _version(found: os.stat_result) -> str:
    """ "" for a file that may still change without a sign of it: it is read again next time."""
    return "" if time.time() - found.st_mtime < TICK_SECONDS else f"{found.st_mtime_ns}-{found.st_size}"


def _is_text(path: str) -> bool:
    """Names on disk are bytes; those that are no UTF-8 come as lone surrogates, which no database takes."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _some(found: Iterator[Item | Unlisted]) -> list[Item | Unlisted]:
    return [one for _, one in zip(range(LISTED_AT_ONCE), found, strict=False)]
