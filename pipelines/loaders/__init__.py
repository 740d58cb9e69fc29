"""Documents to pages of text: one file for each kind, found by looking into the folder.

A loader file offers `SUFFIXES`, `MEDIA_TYPES`, `recognises(sample)` and `load(path, options)`. Adding a kind is
adding a file: nothing here names one. Libraries are imported inside `load`, so that finding a loader stays fast.
"""

import errno
import pkgutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from pipelines.encoding import decode
from pipelines.errors import LockedDocument, NotFound, RagError, UnreadableDocument, UnsupportedDocument
from pipelines.markup import clean
from pipelines.mojibake import Words, repair
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


def _nobody(_text: str) -> None:
    """Remarks that nobody asked for."""


def _no_clock(_seconds: float) -> None:
    """There is no limit to move."""


@dataclass(slots=True)
class Budget:
    """What the files in one archive may take together, whatever they say of themselves."""

    entries: int = 2000
    unpacked: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Options:
    """What whoever asks for a document says about it, and how it wants to hear of what happens."""

    #: opens a locked file; never logged, never written
    password: str = ""
    #: read pictures of text where the extra `ocr` is installed
    ocr: bool = True
    #: keep ruled tables of PDFs as tables where the extra `tables` is installed
    tables: bool = False
    #: how many archives and messages this document lies in
    depth: int = 0
    #: what is left of the sizes and numbers that everything in one archive may take together
    budget: Budget = field(default_factory=Budget)
    #: words with their log probabilities, asked for only where text lost bytes (pipelines.mojibake)
    words: Callable[[], Words] | None = None
    #: told what was left out, repaired or guessed, in words
    remark: Callable[[str], None] = _nobody
    #: told before work that is slow by nature (OCR of a page): seconds it may take beyond the document's limit
    extend: Callable[[float], None] = _no_clock
    #: told the words of a page that was read from a picture: page number and its layout
    layout: Callable[[int, "Layout"], None] | None = None

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Time for work that is slow by nature, given back where it was not needed."""
        begin = time.monotonic()
        self.extend(seconds)
        yield
        self.extend(time.monotonic() - begin - seconds)


@dataclass(frozen=True, slots=True)
class Word:
    """Text and its box on a page: left, top, right, bottom in points (1/72 inch) from the top left corner."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the words of a page stand. `source` is "text" for its own, "ocr" for what was read from its picture."""

    width: float
    height: float
    words: tuple[Word, ...]
    source: str = "text"
    #: mean confidence of the recognition, 0..1; 1 for text
    confidence: float = 1.0


class Loader(Protocol):
    """What a file in this folder offers."""

    #: lower case, with dot
    SUFFIXES: frozenset[str]
    MEDIA_TYPES: frozenset[str]

    def recognises(self, sample: Sample) -> bool:
        """Whether the content alone says that this loader is right, whatever the name."""

    def load(self, path: Path, options: Options) -> Iterator[Page]:
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


def load(path: Path, name: str = "", options: Options | None = None) -> Iterator[Page]:
    """Pages of a file in order, cleaned; pages without text are left out.

    Raises what `find` raises, UnreadableDocument for a file that is damaged or without any text, and LockedDocument for
    one whose password is missing or wrong.
    """
    name = name or path.name
    empty = True
    try:
        for page in find(path, name).load(path, options or Options()):
            text = clean(page.text)
            if text.strip():
                empty = False
                yield Page(text=text, number=page.number, title=clean(page.title))
    except (UnreadableDocument, UnsupportedDocument) as error:
        raise type(error)(str(error).replace(path.name, name)) from error
    except MemoryError:
        raise UnreadableDocument(f"{name} needs more memory than a parser may use: split it") from None
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
            raise
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise UnreadableDocument(f"{name} is damaged ({reason}): open it in its program and save it again") from error
    if empty:
        raise UnreadableDocument(f"{name} holds no text: there is nothing to find in it")


def count_pages(path: Path, name: str = "", options: Options | None = None) -> int | None:
    """Number of pages if the kind of document knows it before it is read (for progress), else None."""
    count = getattr(find(path, name), "count_pages", None)
    try:
        return cast(int, count(path, options or Options())) if count else None
    except (RagError, *_DAMAGE):
        return None  # `load` says what is wrong


def read_text(path: Path, options: Options) -> str:
    """Text of a file in whatever encoding; one that was read in a wrong one before and saved so is made whole.

    A remark says so, with how sure it is; the file itself stays as it is. Raises what `decode` raises.
    """
    text = decode(path.read_bytes(), path.name)
    found = repair(text, options.words)
    if found is None:
        return text
    lost = f", with lost bytes in {found.damaged} characters" if found.damaged else ""
    options.remark(
        f"the text was UTF-8 that had been read as {found.encoding}{lost}: repaired, confidence {found.confidence:.2f}"
    )
    return found.text


def locked(path: Path, options: Options, how: str = "") -> LockedDocument:
    """The error for a file that its password, if one was given, does not open."""
    fix = how or "add it again with its password (deepwell add --password)"
    if options.password:
        return LockedDocument(f"{path.name} does not open with the password given: {fix}")
    return LockedDocument(f"{path.name} needs a password to be opened: {fix}")


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
    with path.open("rb") as file:
        return zip_members(file, name)


def zip_members(file: IO[bytes], name: str) -> frozenset[str]:
    """Names of a zip's members. Raises UnreadableDocument for a damaged one and for one that unpacks to too much."""
    try:
        with zipfile.ZipFile(file) as archive:
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
