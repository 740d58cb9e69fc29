"""One item of a source to one document, or to a reason why there is none."""

import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from connectors import source
from connectors.source import Fetched, Item
from pipelines.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RagError,
    SourceUnavailable,
    TooLarge,
    UnreadableDocument,
    UnsupportedDocument,
)
from services.comparing import TRANSIENT, counted_as, worth_fetching
from services.documents import add_document
from services.jobs import Jobs
from services.settings import Settings
from services.store.documents import Origin
from services.store.records import Document, Source
from services.store.sources import Known, LeftOut
from services.store.store import Store

#: another try with the same version has the same end
_FINAL = (UnsupportedDocument, TooLarge, UnreadableDocument, BadRequest)
#: another try may help, but this item must not stop the others
_LATER = (SourceUnavailable, Forbidden, Conflict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: added, changed, unchanged, gone, skipped or failed; the last two with a reason."""

    external_id: str
    became: str
    code: str = ""
    error: str = ""


class Fetching:
    """Takes items in, one by one."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs) -> None:
        self._settings = settings
        self._store = store
        self._jobs = jobs

    async def take(
        self, found: Source, opened: source.Source, item: Item, known: Mapping[str, Known],
        left_out: Mapping[str, LeftOut],
    ) -> Outcome:  # fmt: skip
        """Fetch an item and add it as a document. Raises what concerns all items: StorageFull, Unavailable."""
        before, reason = known.get(item.external_id), left_out.get(item.external_id)
        version = item.version
        async with AsyncExitStack() as stack:
            try:
                worth_fetching(item, self._settings.server.max_upload_mb << 20)
                fetched = await stack.enter_async_context(opened.fetch(item, _version(before, reason)))
                if fetched is None:
                    return _same(item, before, reason)
                version = fetched.version
                document = await self._add(found, item, fetched)
            except NotFound:
                return Outcome(item.external_id, "gone")
            except _FINAL as error:
                if version:
                    noted = LeftOut(version=version, code=error.code, error=str(error))
                    await self._store.sources.leave_out(found.id, item.external_id, noted)
                return _refused(item, error)
            except _LATER as error:
                return _refused(item, error)
        if reason:
            await self._store.sources.leave_out(found.id, item.external_id, None)
        return Outcome(item.external_id, await self._compare(before, document))

    async def _add(self, found: Source, item: Item, fetched: Fetched) -> Document:
        origin = Origin(
            source_id=found.id, external_id=item.external_id, version=fetched.version, address=fetched.address
        )
        name = found.options.get("prefix", "") + (fetched.name or item.name)
        return await add_document(
            self._settings, self._store, self._jobs, found.knowledge_base_id, name, fetched.content, origin
        )

    async def _compare(self, before: Known | None, document: Document) -> str:
        if before is None:
            return "added"
        if before.document_id != document.id:  # the source gave it another name
            with contextlib.suppress(NotFound):
                await self._jobs.delete_document(before.document_id)
            return "changed"
        return "unchanged" if before.job_id == document.job_id else "changed"


def _version(before: Known | None, reason: LeftOut | None) -> str:
    """The version that need not come again."""
    if reason:
        return reason.version
    return before.version if before and before.error_code not in TRANSIENT else ""


def _same(item: Item, before: Known | None, reason: LeftOut | None) -> Outcome:
    if reason:
        return Outcome(item.external_id, counted_as(reason.code), reason.code, reason.error)
    assert before is not None  # a version was given, so there is something it came from
    return Outcome(item.external_id, "unchanged")


def _refused(item: Item, error: RagError) -> Outcome:
    return Outcome(item.external_id, counted_as(error.code), error.code, str(error))
