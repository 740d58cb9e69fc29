"""Documents to pages of text: one file for each kind, found by looking into the folder.

A loader file offers `SUFFIXES`, `MEDIA_TYPES`, `recognises(sample)` and `load(path)`. Adding a kind is adding a file:
nothing here names one. Libraries are imported inside `load`, so that finding a loader stays fast.
"""

import errno
import pkgutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipelines.errors import NotFound, RagError, UnreadableDocument, UnsupportedDocument
from pipelines.markup import clean
from pipelines.types import Page

if TYPE_CHECKING:
    from langchain_core.documents import Document

#: bytes of the beginning that `recognises` may look at
SAMPLE_BYTES = 4096
#: a zip file that would unpack to more than this is refused unread (files of ordinary use stay far below)
MAX_UNPACKED = 1 << 30
#: compressed documents of text shrink 5 to 20 times; bombs more than 100 times
MAX_RATIO = 200
# What foreign parsers raise on damaged files. Anything else is a defect and is shown as one.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, ArithmeticError, SyntaxError,
           AssertionError, zipfile.BadZipFile, zlib.error, struct.error)  # fmt: skip
# Errors of the system. Others come of a damaged file too: a seek to a negative place, a parser's own IOError.
_NOT_THE_FILE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOENT}
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a file before it is loaded: its first bytes and, for a zip, the names of its members."""

    head: bytes
    members: frozenset[str] = frozenset()


class Loader(Protocol):
    """What a file in this folder offers."""

    #: lower case, with dot
    SUFFIXES: frozenset[str]
    MEDIA_TYPES: frozenset[str]

    def recognises(self, sample: Sample) -> bool:
        """Whether the content alone says that this loader is right, whatever the name."""

    def load(self, path: Path) -> Iterator[Page]:
        """Pages in order, raw: `pipelines.loaders.load` cleans the text and names what is damaged."""


def loaders() -> dict[str, Loader]:
    """Every loader by its file name, in alphabetical order."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: cast(Loader, import_module(f"{__name__}.{name}")) for name in sorted(names)}


def supported() -> list[str]:
    """Every suffix that can be loaded, sorted."""
    return sorted(suffix for loader in loaders().values() for suffix in loader.SUFFIXES if suffix)


def find(path: Path, name: str = "") -> Loader:
    """The loader for a file, by its content first and then by its name.

    `name` is what the document is called if the file itself is called otherwise (an upload). Raises NotFound for a
    missing file, UnreadableDocument for an empty one, UnsupportedDocument if there is no loader for it.
    """
    name = name or path.name
    sample = _sample(path, name)
    suffix = Path(name).suffix.lower()
    found = loaders().values()
    by_name = [loader for loader in found if suffix in loader.SUFFIXES]
    for loader in (*by_name, *found):
        if loader.recognises(sample):
            return loader
    if by_name:
        return by_name[0]
    raise UnsupportedDocument(f"{name} is of a kind Deepwell cannot read. It reads {', '.join(supported())}")


def load(path: Path, name: str = "") -> Iterator[Page]:
    """Pages of a file in order, cleaned; pages without text are left out.

    Raises what `find` raises, and UnreadableDocument for a file that is damaged, locked or without any text.
    """
    name = name or path.name
    empty = True
    try:
        for page in find(path, name).load(path):
            text = clean(page.text)
            if text.strip():
                empty = False
                yield Page(text=text, number=page.number, title=clean(page.title))
    except UnreadableDocument as error:
        raise UnreadableDocument(str(error).replace(path.name, name)) from error
    except MemoryError:
        raise UnreadableDocument(f"{name} needs more memory than a parser may use: split it") from None
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
            raise
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise UnreadableDocument(f"{name} is damaged ({reason}): open it in its program and save it again") from error
    if empty:
        raise UnreadableDocument(f"{name} holds no text: there is nothing to find in it")


def count_pages(path: Path, name: str = "") -> int | None:
    """Number of pages if the kind of document knows it before it is read (for progress), else None."""
    count = getattr(find(path, name), "count_pages", None)
    try:
        return cast(int, count(path)) if count else None
    except (RagError, *_DAMAGE):
        return None  # `load` says what is wrong


def as_documents(path: Path, name: str = "") -> Iterator["Document"]:
    """Pages as LangChain documents, with metadata `source`, `page` (1-based, if there is one) and `title`."""
    from langchain_core.documents import Document

    for page in load(path, name):
        metadata: dict[str, str | int] = {"source": name or str(path)}
        if page.number is not None:
            metadata["page"] = page.number
        if page.title:
            metadata["title"] = page.title
        yield Document(page_content=page.text, metadata=metadata)


def _sample(path: Path, name: str) -> Sample:
    if not path.is_file():
        raise NotFound(f"there is no file {name}: check the path")
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if not head:
        raise UnreadableDocument(f"{name} is empty")
    return Sample(head, _members(path, name) if head.startswith(b"PK\x03\x04") else frozenset())


def _members(path: Path, name: str) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UnreadableDocument(f"{name} is damaged ({error}): it is cut off or was changed on its way") from None
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > MAX_UNPACKED or (unpacked > 50 << 20 and unpacked > MAX_RATIO * max(packed, 1)):
        raise UnreadableDocument(
            f"{name} would unpack to {unpacked >> 20} MiB, {unpacked // max(packed, 1)} times its size: it is refused"
        )
    return frozenset(entry.filename for entry in entries)
