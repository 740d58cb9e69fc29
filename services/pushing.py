"""A document that a program pushes, as the source's sync would have fetched it."""

import contextlib
from collections.abc import AsyncIterator

from pipelines.errors import Conflict, NotFound
from services.build import Deepwell
from services.documents import add_document
from services.store.documents import Origin
from services.store.records import Document, Source


class Body:
    """A request's body as a file that is read bit by bit."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream

    async def read(self, size: int = -1, /) -> bytes:
        """The next piece as it came, none at the end; `size` is what the sender made it."""
        async for piece in self._stream:
            if piece:
                return piece
        return b""


async def push_document(
    deepwell: Deepwell, source: Source, external_id: str, content: Body, *, name: str, version: str
) -> Document:
    """Upsert by external id. Raises Conflict for a source that is not pushed to, and what `add_document` raises."""
    if source.kind != "push":
        raise Conflict(f"source {source.name!r} is of kind {source.kind}: only a push source takes documents with PUT")
    before = (await deepwell.store.sources.known(source.id)).get(external_id)
    name = source.options.get("prefix", "") + name
    if before and version and before.version == version and before.name == name and not before.error_code:
        return await deepwell.store.documents.get(before.document_id)
    origin = Origin(source_id=source.id, external_id=external_id, version=version)
    document = await add_document(
        deepwell.settings, deepwell.store, deepwell.jobs, source.knowledge_base_id, name, content, origin
    )
    if before and before.document_id != document.id:  # it has another name now
        with contextlib.suppress(NotFound):
            await deepwell.jobs.delete_document(before.document_id)
    return document
