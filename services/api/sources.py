"""Sources: where documents come from by themselves."""

import asyncio

from fastapi import APIRouter, Query

from pipelines.errors import Conflict, Forbidden, NotFound
from pipelines.types import Caller
from services import credentials
from services.api.deps import Parts, iso
from services.api.source_bodies import (
    Source,
    SourceChange,
    SourceCreate,
    SourceDocument,
    SourceDocuments,
    SourceProblem,
    SourceRemoval,
    Sources,
    SyncRequest,
)
from services.auth import Ingester
from services.build import Deepwell
from services.errors import responses
from services.sources import Wish, add_source, change_source
from services.store import records

router = APIRouter(prefix="/v1/sources", tags=["sources"])


@router.get("", responses=responses())
async def list_sources(caller: Ingester, deepwell: Parts) -> Sources:
    """Sources of the knowledge bases that the key may use, by name."""
    every = await deepwell.store.sources.list()
    return Sources(sources=[await shown(deepwell, one) for one in every if may_see(caller, one)])


@router.post("", status_code=201, responses=responses(NotFound, Conflict, Forbidden))
async def create_source(body: SourceCreate, caller: Ingester, deepwell: Parts) -> Source:
    """Make a source and begin its first sync."""
    base = await deepwell.knowledge_base(caller, body.knowledge_base)
    wish = Wish(
        kind=body.kind,
        location=body.location,
        name=body.name,
        options=body.options,
        credentials={name: secret.get_secret_value() for name, secret in body.credentials.items()},
        schedule=body.schedule,
        watch=body.watch,
    )
    return await shown(deepwell, await add_source(deepwell, base.id, wish))


@router.get("/{source}", responses=responses(NotFound))
async def get_source(source: str, caller: Ingester, deepwell: Parts) -> Source:
    """One source, by id or name, and how its last sync went."""
    return await shown(deepwell, await find(deepwell, caller, source))


@router.patch("/{source}", responses=responses(NotFound, Conflict))
async def change(source: str, body: SourceChange, caller: Ingester, deepwell: Parts) -> Source:
    """Change its name, its schedule, whether it is watched, or its secrets."""
    changes = body.model_dump(exclude_none=True, exclude={"credentials"})
    if body.credentials is not None:
        changes["credentials"] = {name: secret.get_secret_value() for name, secret in body.credentials.items()}
    found = await change_source(deepwell, await find(deepwell, caller, source), changes)
    return await shown(deepwell, found)


@router.post("/{source}/sync", status_code=202, responses=responses(NotFound, Conflict))
async def sync_source(source: str, caller: Ingester, deepwell: Parts, body: SyncRequest | None = None) -> Source:
    """Look now what has changed. While a sync is under way, another one follows it."""
    found = await find(deepwell, caller, source)
    if found.kind == "push":
        raise Conflict("a push source has nothing to look at: send its documents with PUT")
    await deepwell.jobs.sync(found.id, body is not None and body.allow_empty)
    return await shown(deepwell, await deepwell.store.sources.get(found.id))


@router.delete("/{source}", responses=responses(NotFound))
async def delete_source(
    source: str,
    caller: Ingester,
    deepwell: Parts,
    keep_documents: bool = Query(False, description="Leave its documents where they are; they are uploads then."),
) -> SourceRemoval:
    """Remove a source, its secrets, and its documents unless they are to be kept."""
    found = await find(deepwell, caller, source)
    documents = len(await deepwell.store.sources.known(found.id))
    await deepwell.jobs.remove_source(found.id, keep_documents)
    return SourceRemoval(id=found.id, name=found.name, documents=documents, kept=keep_documents)


@router.get("/{source}/documents", responses=responses(NotFound))
async def list_source_documents(source: str, caller: Ingester, deepwell: Parts) -> SourceDocuments:
    """What the source has, by what it calls it, with versions: what need not be sent again."""
    found = await find(deepwell, caller, source)
    known = await deepwell.store.sources.known(found.id)
    return SourceDocuments(
        documents=[
            SourceDocument(external_id=key, document_id=one.document_id, name=one.name, version=one.version)
            for key, one in sorted(known.items())
        ]
    )


async def find(deepwell: Deepwell, caller: Caller, source: str) -> records.Source:
    """A source that the caller may see. Raises NotFound, the same for one that is not there."""
    found = await deepwell.store.sources.get(source)
    if not may_see(caller, found):
        raise NotFound(f"there is no source {source!r}: `deepwell source list` shows those there are")
    return found


def may_see(caller: Caller, source: records.Source) -> bool:
    """Whether the key allows the knowledge base."""
    return caller.knowledge_bases is None or source.knowledge_base_id in caller.knowledge_bases


async def shown(deepwell: Deepwell, source: records.Source) -> Source:
    """A source as the API shows it; of secrets the names."""
    secrets = await asyncio.to_thread(credentials.read, deepwell.settings.data_dir, source.id)
    same = ("id", "name", "kind", "location", "schedule", "watch", "state", "step", "done", "total")
    return Source(
        **{name: getattr(source, name) for name in same},
        knowledge_base=await deepwell.knowledge_base_name(source.knowledge_base_id),
        options=dict(source.options),
        credentials=sorted(secrets),
        watch_error=source.watch_error or None,
        next_sync=_time(source.due),
        error=source.error or None,
        code=source.error_code or None,
        counts=dict(source.counts),
        problems=[SourceProblem(**problem) for problem in source.problems],
        documents=await deepwell.store.sources.states(source.id),
        began=_time(source.began),
        ended=_time(source.ended),
        created=iso(source.created),
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)
