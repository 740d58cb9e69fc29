"""ZIP archives of documents: one page or more for each file in it, with limits on what it may unpack to."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, Sample, locked
from pipelines.loaders._nested import inner, refuse_empty
from pipelines.types import Page

SUFFIXES = frozenset({".zip"})
MEDIA_TYPES = frozenset({"application/zip"})

_PIECE = 1 << 18
_LOCKED = 0x1  # general purpose bit 0 (APPNOTE.TXT 4.4.4)
#: members that say a zip is a document of its own: Office Open XML, OpenDocument and EPUB, Apple's, Java's
_MARKS = ("[Content_Types].xml", "mimetype", "Index/Document.iwa", "META-INF/MANIFEST.MF")
_UNWANTED = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")
#: files one archive may hold
MAX_ENTRIES = 2000


def recognises(sample: Sample) -> bool:
    """A zip with files in it that is not a document itself."""
    return bool(sample.members) and not any(mark in sample.members for mark in _MARKS)


def load(path: Path, options: Options) -> Iterator[Page]:
    """Pages of every file in order of the archive; their titles begin with its name in it.

    Files of a kind that Deepwell does not read are left out with a remark. Raises LockedDocument for a missing or
    wrong password (of the archive or of a file in it), UnreadableDocument if it passes a limit or nothing could be
    read.
    """
    found = 0
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_unwanted(entry.filename)]
        if len(entries) > MAX_ENTRIES:
            raise UnreadableDocument(f"{path.name} holds {len(entries)} files, more than {MAX_ENTRIES}: split it")
        for entry in entries:
            for page in inner(entry.filename, _pieces(archive, entry, path, options), options):
                found += 1
                yield page
    refuse_empty(found, path.name)


def _is_unwanted(name: str) -> bool:
    return name.startswith(_UNWANTED) or name.rsplit("/", 1)[-1].startswith((*_UNWANTED, "._"))


def _pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, options: Options) -> Iterator[bytes]:
    """Content bit by bit. What the archive says of sizes is not believed: the reader counts."""
    if entry.flag_bits & _LOCKED and not options.password:
        raise locked(path, options)
    try:
        with archive.open(entry, pwd=options.password.encode() or None) as file:
            while piece := file.read(_PIECE):
                yield piece
    except NotImplementedError:
        raise UnreadableDocument(f"{entry.filename} is packed in a way that cannot be unpacked here") from None
    except RuntimeError as error:
        if "password" not in str(error).lower():
            raise
        raise locked(path, options) from None
    except zipfile.BadZipFile as error:
        raise UnreadableDocument(f"{entry.filename} is damaged in the archive ({error})") from None
