"""What Word and PowerPoint files share: encryption, and charts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.errors import UnreadableDocument

# An encrypted Office file is an OLE file with a stream of this name ([MS-OFFCRYPTO] 2.3), not a zip.
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_STREAM = "EncryptedPackage".encode("utf-16-le")


def refuse_encrypted(path: Path) -> None:
    """Raise UnreadableDocument if an Office file needs a password, or is an old binary one under a new name."""
    with path.open("rb") as file:
        if file.read(8) != _OLE:
            return
    if _STREAM in path.read_bytes():
        raise UnreadableDocument(f"{path.name} needs a password to be opened: save a copy without one and add that")
    raise UnreadableDocument(f"{path.name} is an old binary Office file: save it as {path.suffix} and add that")


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
