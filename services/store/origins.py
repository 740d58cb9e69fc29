"""Where a document comes from, and who may change it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.errors import Conflict
from services.store.database import Row
from services.store.tables import documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a document comes from, if a source brings it."""

    source_id: str
    #: what it is called there
    external_id: str
    #: opaque; equal versions have equal contents
    version: str
    #: path or URL, for people
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is known of a file when it is added."""

    name: str
    sha256: str
    size: int
    media_type: str
    origin: "Origin | None" = None


def may_change(row: Row, upload: Upload) -> None:
    """Raises Conflict if the document is another source's."""
    if row.source_id is None or (upload.origin and upload.origin.source_id == row.source_id):
        return
    if upload.origin or row.sha256 != upload.sha256:
        raise Conflict(
            f"{upload.name} comes from source {row.source_id}, which decides what is in it: change it there, add this "
            "file under another name (a source: with a prefix), or remove that source and keep its documents"
        )


async def adopt(connection: AsyncConnection, row: Row, origin: Origin) -> None:
    """The same content from a source: it is the source's from now on. Raises Conflict if it is another source's."""
    if row.source_id not in (None, origin.source_id):
        raise Conflict(f"{row.name} comes from source {row.source_id} already: give this one a prefix")
    await connection.execute(documents.update().where(documents.c.id == row.id).values(_of(origin)))


def _of(origin: Origin) -> dict[str, Any]:
    return {
        "source_id": origin.source_id,
        "external_id": origin.external_id,
        "version": origin.version,
        "source": origin.address,
    }


def origin_columns(row: Row | None, upload: Upload) -> dict[str, Any]:
    """Columns of the origin: what came back after a deletion is an upload, a retry of what a source brought is not."""
    if upload.origin:
        return _of(upload.origin)
    if row is None or row.deleted is not None:
        return {"source_id": None, "external_id": None, "version": None, "source": ""}
    return {}
