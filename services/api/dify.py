"""Dify's external knowledge: passages for its retrieval nodes, with citation cards. Errors: {"error_code", …}."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from connectors.apps.dify import RetrievalRequest, parse_retrieval
from connectors.bodies import dumps
from connectors.citing import title
from pipelines.errors import NotFound, TooLarge, Unavailable
from pipelines.retrieve import retrieve
from pipelines.types import Caller, Chunk, Hit
from services.api.chat import read_body
from services.api.deps import Parts, iso
from services.api.document import some, takes, text
from services.auth import Retriever
from services.build import Deepwell
from services.citations import Addresses
from services.errors import foreign
from services.recent import Recent
from services.store.freshness import version_of
from services.store.records import Document, KnowledgeBase
from services.store.store import Store

router = APIRouter(tags=["dify"])
log = logging.getLogger(__name__)
#: Dify gives up after 5 s and asks three times more; a repetition finds the search still running and waits along
DEADLINE = 3.0
Records = list[dict[str, Any]]


@router.post(
    "/dify/retrieval",
    responses=foreign({"error_code": 1002, "error_msg": "…"}, NotFound, TooLarge),
    openapi_extra=takes(
        {"knowledge_id": text("Name or id of a knowledge base."), "query": text()},
        {
            "retrieval_setting": some("`top_k` (1 to 100) and `score_threshold` (0 to 1)."),
            "metadata_condition": some("`logical_operator` and `conditions`: `name`, `comparison_operator`, `value`."),
        },
    ),
)
async def dify_retrieval(request: Request, caller: Retriever, deepwell: Parts) -> Response:
    """Passages for a question. `knowledge_id` is a knowledge base's name or id."""
    wanted = parse_retrieval(await read_body(request))
    base = await deepwell.knowledge_base(caller, wanted.knowledge_id)
    address = deepwell.settings.server.public_url or str(request.base_url)
    # a frozen record: equal requests of one key are one
    key = (caller.key_id, repr(wanted), address, await version_of(deepwell.store.database, [base.id]))
    recent: Recent[Records] = request.app.state.recent

    async def search() -> Records:
        return await records(deepwell, caller, wanted, base, address.rstrip("/"))

    try:
        async with asyncio.timeout(DEADLINE):
            found = await recent.get(key, search)
    except TimeoutError:
        log.warning("a search for Dify in %s takes longer than %s s", base.name, DEADLINE)
        raise Unavailable(f"the search takes longer than {DEADLINE:.0f} s: ask again, it goes on meanwhile") from None
    return Response(dumps({"records": found}), media_type="application/json")


async def records(
    deepwell: Deepwell, caller: Caller, wanted: RetrievalRequest, base: KnowledgeBase, address: str
) -> Records:
    """Dify's records, best first. Raises what `retrieve` raises."""
    signed = Addresses(deepwell.signer, lambda: address).passage
    hits = await retrieve(
        await deepwell.rag(),
        caller,
        wanted.query,
        [base.id],
        top_k=wanted.top_k,
        candidates=max(deepwell.settings.retrieval.candidates, wanted.top_k),
        min_score=max(deepwell.settings.retrieval.min_score, wanted.score_threshold),
        only=await wanted_passages(deepwell.store, wanted, base, signed) if wanted.conditions else None,
    )
    documents = await deepwell.store.documents.find_all({hit.chunk.document_id for hit in hits})
    return [record(hit, documents.get(hit.chunk.document_id), base, signed(hit.chunk.id)) for hit in hits]


async def wanted_passages(
    store: Store, wanted: RetrievalRequest, base: KnowledgeBase, signed: Callable[[str], str]
) -> frozenset[str]:
    """Ids of the passages that meet the conditions.

    Where these name fields of documents alone, passages are not looked at one by one.
    """
    names = {name for condition in wanted.conditions for name in condition.names}
    documents = {each.id: each for each in await store.documents.list(base.id, limit=None)}
    if names.isdisjoint(PASSAGE_FIELDS):
        met = frozenset(each.id for each in documents.values() if wanted.matches(document_fields(each, base)))
        return frozenset(each.id for each in await store.passages.places(base.id, met)) if met else frozenset()
    fields = {each.id: document_fields(each, base) for each in documents.values()}
    found = set()
    for chunk in await store.passages.places(base.id):
        url = signed(chunk.id) if "url" in names else ""
        metadata = fields.setdefault(chunk.document_id, {})
        metadata.update(passage_fields(chunk, url))
        if wanted.matches(metadata):
            found.add(chunk.id)
    return frozenset(found)  # their text is read by `retrieve`, which looks again whether they are there


#: fields that differ from passage to passage of a document
PASSAGE_FIELDS = frozenset({"chunk_id", "position", "page", "heading", "url"})


def passage_fields(chunk: Chunk, url: str) -> dict[str, Any]:
    """A passage's part of the metadata."""
    return {
        "document_id": chunk.document_id,
        "document_name": chunk.document,
        "chunk_id": chunk.id,
        "position": chunk.position,
        "page": chunk.page,
        "heading": chunk.heading,
        "url": url,
    }


def document_fields(document: Document, base: KnowledgeBase) -> dict[str, Any]:
    """A document's part of it."""
    return {
        "document_id": document.id,
        "document_name": document.name,
        "source": document.source or document.name,
        "media_type": document.media_type,
        "size": document.size,
        "upload_date": iso(document.created),
        "last_update_date": iso(document.updated),
        "knowledge_base": base.name,
    }


def record(hit: Hit, document: Document | None, base: KnowledgeBase, url: str) -> dict[str, Any]:
    """One record. Its metadata is an object in any case: without one, Dify drops the passage."""
    chunk = hit.chunk
    metadata = passage_fields(chunk, url) | {"knowledge_base": base.name}
    if document is not None:
        metadata |= document_fields(document, base)
    return {
        "content": chunk.text,
        "score": round(hit.score, 6),
        "title": title(chunk.document, chunk.page),
        "metadata": metadata,
    }
