"""What Office files share: encryption, and charts."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, locked, zip_members

# An encrypted Office file is an OLE file ([MS-OFFCRYPTO] 2.3), not a zip.
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
#: Excel encrypts workbooks that are only write-protected with this password ([MS-OFFCRYPTO] 4.14, Microsoft's notes)
_OPEN_TO_ALL = "VelvetSweatshop"
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"


def opened(path: Path, options: Options) -> IO[bytes]:
    """An Office Open XML file, to be read and closed; an encrypted one is decrypted in memory.

    Raises LockedDocument if its password is missing or wrong, UnreadableDocument for an old binary file under a new
    name and for an encrypted bomb.
    """
    with path.open("rb") as file:
        if file.read(8) != _OLE:
            return path.open("rb")
    content = unlocked(path, options)
    if content.startswith(_OLE):
        raise UnreadableDocument(f"{path.name} is an old binary Office file: name it .doc, .xls or .ppt and add that")
    zip_members(io.BytesIO(content), path.name)
    return io.BytesIO(content)


def unlocked(path: Path, options: Options) -> bytes:
    """Content of an Office file of any age without its encryption. Raises LockedDocument."""
    import msoffcrypto
    from msoffcrypto import exceptions

    with path.open("rb") as file:
        try:
            office: Any = msoffcrypto.OfficeFile(file)
            if not office.is_encrypted():
                return path.read_bytes()
            check = {"verify_password": True} if office.format == "ooxml" else {}
            plain = io.BytesIO()
            office.load_key(password=options.password or _OPEN_TO_ALL, **check)
            office.decrypt(plain)
            return plain.getvalue()
        except exceptions.InvalidKeyError:
            raise locked(path, options) from None
        except (exceptions.FileFormatError, exceptions.DecryptionError, exceptions.EncryptionError) as error:
            raise ValueError(str(error)) from error


def chart_rows(chart: Any) -> list[list[str]]:
    """The numbers kept in a chart of any kind (`c:chartSpace`) as rows: categories down, series across."""
    series = list(chart.iter(_C + "ser"))
    columns = [_points(one, ("val", "yVal", "bubbleSize")) for one in series]
    categories = next((found for one in series if (found := _points(one, ("cat", "xVal")))), {})
    places = sorted(categories.keys() | {place for column in columns for place in column})
    head = ["", *(" ".join(_points(one, ("tx",)).values()) for one in series)]
    body = [[categories.get(place, ""), *(column.get(place, "") for column in columns)] for place in places]
    return [head, *body] if series else []


def _points(series: Any, names: tuple[str, ...]) -> dict[int, str]:
    """Cached values of a part of a series, by place."""
    part = next((found for name in names if (found := series.find(_C + name)) is not None), None)
    if part is None:
        return {}
    return {int(point.get("idx")): point.findtext(_C + "v") or "" for point in part.iter(_C + "pt")}


def picture(name: str, description: str) -> str:
    """Markdown of a picture that says something about itself; "" otherwise."""
    return f"![{description}]({name})" if description.strip() else ""


def joined(parts: Iterable[str], separator: str = "\n\n") -> str:
    """Parts that are not empty, joined."""
    return separator.join(part for part in parts if part.strip())
