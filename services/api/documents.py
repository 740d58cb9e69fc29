"""Documents of a knowledge base: add, look, remove; and the passages that citations point to."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile

from pipelines.errors import BadRequest, Forbidden, NotFound, StorageFull, TooLarge, UnsupportedDocument
from pipelines.types import Caller
from pipelines.types import Chunk as Passage
from services.api.deps import Parts, iso
from services.api.job_schemas import Removal, StoreCount
from services.api.schemas import Chunk, Chunks, Document, Documents
from services.auth import Ingester, Retriever
from services.build import Deepwell
from services.documents import add_document
from services.errors import responses
from services.job import Job
from services.store import records

router = APIRouter(prefix="/v1", tags=["documents"])
Limit = Annotated[int, Query(ge=1, le=10_000)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]


@router.post(
    "/knowledge_bases/{knowledge_base}/documents",
    status_code=202,
    responses=responses(NotFound, Forbidden, TooLarge, UnsupportedDocument, StorageFull),
)
async def upload_document(
    knowledge_base: str,
    file: Annotated[list[UploadFile], File(description="One or several files.")],
    caller: Ingester,
    deepwell: Parts,
    name: Annotated[str, Form(description="Name for citations, with one file; its file name if left out.")] = "",
    password: Annotated[str, Form(max_length=1024, description="Opens those of the files that are locked.")] = "",
) -> Documents:
    """Take files in; they are searchable once their state is `succeeded`. The same content again is free."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    if name and len(file) > 1:
        raise BadRequest("`name` goes with one file; send several files without it")
    added = [
        await add_document(
            deepwell.settings,
            deepwell.store,
            deepwell.jobs,
            base.id,
            name or one.filename or "",
            one,
            password=password,
        )
        for one in file
    ]
    return Documents(documents=[shown(document, base.name) for document in added])


@router.get("/knowledge_bases/{knowledge_base}/documents", responses=responses(NotFound))
async def list_documents(
    knowledge_base: str, caller: Retriever, deepwell: Parts, limit: Limit = 10_000, offset: Offset = 0
) -> Documents:
    """Documents of a knowledge base, by name."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    found = await deepwell.store.documents.list(base.id, limit=limit, offset=offset)
    return Documents(documents=[shown(document, base.name) for document in found])


@router.get("/documents/{document}", responses=responses(NotFound))
async def get_document(document: str, caller: Retriever, deepwell: Parts) -> Document:
    """One document and how far its ingestion is."""
    found = await find(deepwell, caller, document)
    return shown(found, await deepwell.knowledge_base_name(found.knowledge_base_id))


@router.delete("/documents/{document}", responses=responses(NotFound))
async def delete_document(document: str, caller: Ingester, deepwell: Parts) -> Removal:
    """Remove a document from every store. It is invisible at once; the answer comes when it is gone."""
    found = await find(deepwell, caller, document)
    job = await deepwell.jobs.delete_document(found.id)
    ended = await deepwell.jobs.wait(job.id)
    return removal(found.id, found.name, ended)


@router.get("/documents/{document}/chunks", responses=responses(NotFound))
async def list_chunks(
    document: str, caller: Retriever, deepwell: Parts, limit: Limit = 100, offset: Offset = 0
) -> Chunks:
    """Passages of a document in reading order."""
    found = await find(deepwell, caller, document)
    return Chunks(chunks=[passage(chunk) for chunk in await deepwell.store.chunks.of(found.id, limit, offset)])


@router.get("/documents/{document}/chunks/{chunk}", responses=responses(NotFound))
async def get_chunk(document: str, chunk: str, caller: Retriever, deepwell: Parts) -> Chunk:
    """The passage that a citation points to."""
    found = await find(deepwell, caller, document)
    passages = await deepwell.store.passages.get([found.knowledge_base_id], [chunk])
    if chunk not in passages or passages[chunk].document_id != found.id:
        raise NotFound(f"document {found.name!r} has no passage {chunk!r}; it may have changed since it was cited")
    return passage(passages[chunk])


async def find(deepwell: Deepwell, caller: Caller, document: str) -> records.Document:
    """A document that the caller may see. Raises NotFound, the same for one that is not there."""
    found = await deepwell.store.documents.get(document)
    if caller.knowledge_bases is not None and found.knowledge_base_id not in caller.knowledge_bases:
        raise NotFound(f"there is no document {document!r}")
    return found


def removal(identity: str, name: str, job: Job) -> Removal:
    """The receipt of a deletion: what its job counted before and after."""
    receipt = {store: StoreCount(**count) for store, count in job.receipt.items()}
    return Removal(
        id=identity, name=name, job=job.id, state=job.state, removed=job.removed, receipt=receipt, notes=[*job.notes]
    )


def shown(document: records.Document, knowledge_base: str) -> Document:
    """A document as the API shows it."""
    return Document(
        id=document.id,
        name=document.name,
        knowledge_base=knowledge_base,
        state=document.state,
        step=document.step,
        chunks=document.chunks,
        pages_done=document.pages_done,
        pages_total=document.pages_total or None,
        eta=document.eta,
        size=document.size,
        error=document.error or None,
        code=document.error_code or None,
        job=document.job_id,
        created=iso(document.created),
        updated=iso(document.updated),
    )


def passage(chunk: Passage) -> Chunk:
    """A passage as the API shows it."""
    fields = {name: getattr(chunk, name) for name in Chunk.model_fields if name != "chunk_id"}
    return Chunk(chunk_id=chunk.id, **fields)
