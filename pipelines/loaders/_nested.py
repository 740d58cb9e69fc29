"""Documents inside documents: the files of an archive and the attachments of a message."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines import loaders
from pipelines.errors import LockedDocument, RagError, TooLarge, UnreadableDocument
from pipelines.loaders import Options
from pipelines.markup import one_line
from pipelines.types import Page

#: archives in archives, attachments of attachments
MAX_DEPTH = 3
#: characters of an inner name that are shown
_SHOWN = 120


def inner(name: str, pieces: Iterable[bytes], options: Options) -> Iterator[Page]:
    """Pages of a file inside another one; what cannot be read becomes a remark, and the rest goes on.

    `name` is what the outer file says: it is shown and its ending helps to find the loader, but it is never a path.
    Titles of the pages begin with it. Raises UnreadableDocument when all files together pass the limits, and
    LockedDocument if the inner file needs a password.
    """
    shown = shown_name(name)
    if options.depth >= MAX_DEPTH:
        options.remark(f"{shown} was left out: it lies more than {MAX_DEPTH} files deep")
        return
    with TemporaryDirectory(prefix="deepwell-") as folder:
        path = Path(folder, "inner")
        try:
            _write(path, pieces, options)
            for page in loaders.load(path, shown, replace(options, depth=options.depth + 1)):
                yield Page(text=page.text, title=_title(shown, page))
        except (LockedDocument, TooLarge) as error:
            raise type(error)(str(error)) from error
        except RagError as error:
            options.remark(f"{shown} was left out: {error}")


def shown_name(name: str) -> str:
    """A name from outside as it may be shown: no folders that lead out, no control characters, not endless."""
    parts = [part for part in one_line(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    text = "".join(char for char in "/".join(parts) if char.isprintable())
    return text[-_SHOWN:] or "unnamed"


def _write(path: Path, pieces: Iterable[bytes], options: Options) -> None:
    budget = options.budget
    budget.entries -= 1
    if budget.entries < 0:
        raise TooLarge("the archive holds more files than Deepwell unpacks: unpack it and add its files")
    with path.open("wb") as file:
        for piece in pieces:
            budget.unpacked -= len(piece)
            if budget.unpacked < 0:
                raise TooLarge("the archive unpacks to more than Deepwell takes from one file: unpack it yourself")
            file.write(piece)


def _title(name: str, page: Page) -> str:
    if page.title:
        return f"{name} › {page.title}"
    return f"{name}, page {page.number}" if page.number is not None else name


def refuse_empty(found: int, name: str) -> None:
    """Raise UnreadableDocument for a container in which no file could be read."""
    if not found:
        raise UnreadableDocument(f"{name} holds no file that Deepwell can read")
