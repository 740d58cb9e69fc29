"""Documents that programs push to a source, under ids of their own."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter

from pipelines.errors import Conflict, NotFound, StorageFull, TooLarge, UnreadableDocument, UnsupportedDocument
from services.api.deps import Parts
from services.api.documents import removal, shown
from services.api.job_schemas import Removal
from services.api.schemas import Document
from services.api.sources import find
from services.auth import Ingester
from services.errors import responses
from services.pushing import Body, push_document

router = APIRouter(prefix="/v1/sources/{source}/documents", tags=["sources"])
ExternalId = Annotated[str, PathParameter(max_length=1000, description="What the pusher calls it; slashes are fine.")]


@router.put(
    "/{external_id:path}",
    status_code=202,
    responses=responses(NotFound, Conflict, TooLarge, UnsupportedDocument, UnreadableDocument, StorageFull),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def push(
    source: str,
    external_id: ExternalId,
    request: Request,
    caller: Ingester,
    deepwell: Parts,
    name: Annotated[str, Query(max_length=1000, description="What citations call it; its id if left out.")] = "",
    version: Annotated[str, Query(max_length=1000, description="If it is the one stored, the body is not read.")] = "",
) -> Document:
    """Put a document in the place of the one with this id, or add it. The body is the file. The same again is free."""
    found = await find(deepwell, caller, source)
    document = await push_document(
        deepwell, found, external_id, Body(request.stream()), name=name or external_id, version=version
    )
    return shown(document, await deepwell.knowledge_base_name(document.knowledge_base_id))


@router.delete("/{external_id:path}", responses=responses(NotFound))
async def delete_pushed(source: str, external_id: ExternalId, caller: Ingester, deepwell: Parts) -> Removal:
    """Remove the document with this id from every store. The answer comes when it is gone."""
    found = await find(deepwell, caller, source)
    known = (await deepwell.store.sources.known(found.id)).get(external_id)
    if known is None:
        raise NotFound(f"source {found.name!r} has no document {external_id!r}")
    job = await deepwell.jobs.delete_document(known.document_id)
    return removal(known.document_id, known.name, await deepwell.jobs.wait(job.id))
