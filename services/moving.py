"""`deepwell move`: the knowledge bases of one data directory into the databases that the settings name.

The way from the embedded default (SQLite, Milvus Lite) to servers (PostgreSQL, Milvus), with documents, originals,
passages, vectors and keys. Nothing is embedded again. The source is read from a copy, so it stays as it is; a move
that was cut off goes on where it stopped, since a document appears in the new place only when all of it is there.
"""

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from pydantic import SecretStr

from pipelines.errors import BadRequest, Conflict, IndexUnavailable, NotFound, StorageFull
from pipelines.rag import VectorIndex
from pipelines.types import EmbeddingIdentity
from services import notes
from services.build import build_lexical_index, build_vector_index
from services.lock import holder, turn
from services.moving_check import Places, compared
from services.moving_sources import move_sources
from services.settings import Settings
from services.store.chunks import chunk_of
from services.store.database import Row
from services.store.records import KnowledgeBase
from services.store.store import Store
from services.store.tables import chunks, documents, keys, knowledge_bases

Say = Callable[[str], None]
#: passages, and documents, that are written before they become visible together
PASSAGES, DOCUMENTS = 1000, 50
#: states of documents whose job is to do something yet: it is done in the new place, from the original
UNFINISHED = ("queued", "running", "paused")


@dataclass(slots=True)
class Moved:
    """How far a knowledge base is."""

    documents: int = 0
    #: of them moved by this run; the rest was there from a run before
    now: int = 0
    #: of them to be ingested in the new place: their job had not ended, or their vectors were not all there
    again: int = 0
    #: of them without an original in the source
    without_original: int = 0


async def move(settings: Settings, source: Path, names: Sequence[str], say: Say) -> dict[str, Any]:
    """Move the named knowledge bases, or all; compare both places. {"ok", "knowledge_bases", "keys", …}.

    Raises BadRequest, NotFound (nothing to move), Conflict (the source is in use, a name is taken), StorageFull,
    Unavailable.
    """
    check(settings, source)
    copy = settings.data_dir / "moving"
    await asyncio.to_thread(copied, source, copy, say)
    try:
        async with lite(copy / "milvus") as url, await Store.open(f"sqlite:///{copy / 'state.db'}") as old:
            before = settings.model_copy(
                update={
                    "data_dir": copy,
                    "index": settings.index.model_copy(
                        update={"url": url, "token": SecretStr(""), "database": "", "lexical": "tantivy"}
                    ),
                }
            )
            async with await Store.open(settings.store_url()) as new, turn(settings.data_dir / "tidying.lock"):
                return await Move(before, settings, old, new, source, say).run(names)
    finally:
        await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)


class Move:
    """One run, with both places open."""

    def __init__(self, before: Settings, after: Settings, old: Store, new: Store, source: Path, say: Say) -> None:
        self._before, self._after, self._old, self._new = before, after, old, new
        self._source, self._say = source, say
        self._words = (build_lexical_index(before), build_lexical_index(after))

    async def run(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything, in order; names are checked before anything is written."""
        bases = await self._wanted(names)
        found = []
        try:
            for base in bases:
                moved, index = Moved(), self._indexes(base.embedding)
                try:
                    await self._knowledge_base(base, moved, index)
                    self._say(f"{base.name}: comparing searches")
                    places = Places(self._old, self._new, index, self._words)
                    found.append(await compared(places, base, vars_of(moved)))
                finally:
                    for each in index:
                        await each.close()
        finally:
            for words in self._words:
                await words.close()
        return {
            "ok": all(each["ok"] for each in found),
            "from": str(self._source),
            "to": {"state": self._new.database.url.render_as_string(), "index": self._after.index.url},
            "knowledge_bases": found,
            "keys": await self._keys(),
            "citation_links": await asyncio.to_thread(self._citation_secret),
        }

    async def _wanted(self, names: Sequence[str]) -> list[KnowledgeBase]:
        there = {base.name: base for base in await self._old.knowledge_bases.list()}
        if missing := [name for name in names if name not in there]:
            raise NotFound(f"{self._source} has no knowledge base {missing[0]!r}; it has: {', '.join(there) or 'none'}")
        bases = [there[name] for name in names] if names else list(there.values())
        if not bases:
            raise NotFound(f"{self._source} has no knowledge base to move")
        taken = {base.name: base.id for base in await self._new.knowledge_bases.list()}
        for base in bases:
            if taken.get(base.name, base.id) != base.id:
                raise Conflict(
                    f"the new place has a knowledge base {base.name!r} of its own: delete that one first "
                    f"(`deepwell kb delete {base.name}` there), or name with --kb which ones to move; nothing was moved"
                )
        return bases

    def _indexes(self, identity: EmbeddingIdentity | None) -> tuple[VectorIndex, VectorIndex]:
        made_with = identity or EmbeddingIdentity(model="none", revision="", dimension=1)
        return build_vector_index(self._before, made_with), build_vector_index(self._after, made_with)

    async def _knowledge_base(self, base: KnowledgeBase, moved: Moved, index: tuple[VectorIndex, VectorIndex]) -> None:
        await self._insert(knowledge_bases, [await self._row(knowledge_bases, base.id)], known={base.id})
        if base.embedding is not None:
            await index[1].ensure(base.id, base.embedding)
        query = sa.select(documents).where(documents.c.knowledge_base_id == base.id, documents.c.deleted.is_(None))
        rows = [dict(row._mapping) for row in await self._old.database.rows(query.order_by(documents.c.name))]
        there = sa.select(documents.c.id).where(documents.c.knowledge_base_id == base.id)
        known = {row[0] for row in await self._new.database.rows(there)}
        moved.documents = len(rows)
        todo = [row for row in rows if row["id"] not in known]
        for batch in batches(todo):
            await self._batch(batch, moved, index)
            self._say(f"{base.name}: {len(rows) - len(todo) + moved.now} of {len(rows)} documents")
        if moved.now:
            await index[1].flush(base.id)
        await move_sources(self._old, self._new, base.id, (self._source, self._after.data_dir))

    async def _batch(self, rows: list[dict[str, Any]], moved: Moved, index: tuple[VectorIndex, VectorIndex]) -> None:
        """Originals, vectors and words first, rows last: from then on searches see these documents."""
        names = {row["id"]: row["name"] for row in rows}
        query = sa.select(chunks).where(chunks.c.document_id.in_(names)).order_by(chunks.c.document_id)
        passages = await self._old.database.rows(query)
        base = rows[0]["knowledge_base_id"]
        vectors = await index[0].vectors(base, [row.id for row in passages]) if passages else {}
        again = {row.document_id for row in passages if row.id not in vectors}
        passages = [row for row in passages if row.document_id not in again]
        if passages:
            made = [chunk_of(row, names[row.document_id]) for row in passages]
            await index[1].upsert(made, np.stack([vectors[row.id] for row in passages]))
            await self._words[1].upsert(made)
            await self._words[1].flush()
        for row in rows:
            moved.without_original += not await asyncio.to_thread(self._files, row["sha256"])
            if row["id"] in again or row["state"] in UNFINISHED:
                moved.again += 1
                row |= {"state": "queued", "step": "", "eta": None, "attempts": 0, "pages_done": 0}
            if row["id"] in again:
                row |= {"chunks": 0, "indexed_sha256": ""}
        async with self._new.database.write() as connection:
            await connection.execute(documents.insert(), rows)
            for start in range(0, len(passages), PASSAGES):
                part = [dict(row._mapping) for row in passages[start : start + PASSAGES]]
                await connection.execute(chunks.insert(), part)
        moved.now += len(rows)

    def _files(self, sha256: str) -> bool:
        """Copy the original and what parsing noted about it; whether there is an original."""
        for folder, name in ((notes.FOLDER, f"{sha256}.json"), ("blobs", sha256)):
            there, here = self._source / folder / name, self._after.data_dir / folder / name
            if there.exists() and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, here.with_name(f"{name}.moving"))
                here.with_name(f"{name}.moving").replace(here)
        return (self._after.data_dir / "blobs" / sha256).exists()

    async def _row(self, table: sa.Table, identity: str) -> dict[str, Any]:
        row = await self._old.database.row(sa.select(table).where(table.c.id == identity))
        assert row is not None
        return dict(row._mapping)

    async def _insert(self, table: sa.Table, rows: Iterable[Mapping[str, Any]], known: set[str]) -> int:
        """Rows that the new place does not have. Gives how many."""
        there = {row[0] for row in await self._new.database.rows(sa.select(table.c.id).where(table.c.id.in_(known)))}
        new = [dict(row) for row in rows if row["id"] not in there]
        if new:
            async with self._new.database.write() as connection:
                await connection.execute(table.insert(), new)
        return len(new)

    async def _keys(self) -> int:
        """Keys go on working: the same secrets, scopes and limits. Gives how many there are now of the old ones."""
        rows: list[Row] = await self._old.database.rows(sa.select(keys).where(keys.c.revoked.is_(None)))
        taken = {row[0] for row in await self._new.database.rows(sa.select(keys.c.hash))}
        new = [dict(row._mapping) for row in rows if row.hash not in taken]
        await self._insert(keys, new, {row["id"] for row in new})
        return len(rows)

    def _citation_secret(self) -> bool:
        """Old citation links go on working, unless the new place has a secret of its own already."""
        there, here = self._source / "citation-secret", self._after.data_dir / "citation-secret"
        if self._after.server.citation_secret.get_secret_value() or not there.exists():
            return False
        if not here.exists():
            shutil.copyfile(there, here)
            here.chmod(0o600)
        return here.read_bytes() == there.read_bytes()


def vars_of(moved: Moved) -> dict[str, int]:
    """The numbers of a record with slots."""
    return {name: getattr(moved, name) for name in Moved.__slots__}


def batches(rows: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Documents in groups that are not too large; a long document is a group of its own."""
    batch: list[dict[str, Any]] = []
    for row in rows:
        if batch and (sum(each["chunks"] for each in batch) + row["chunks"] > PASSAGES or len(batch) == DOCUMENTS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def check(settings: Settings, source: Path) -> None:
    """Raises BadRequest or Conflict where this cannot be a move."""
    if not (source / "state.db").exists():
        raise BadRequest(f"--from {source} is no data directory of the embedded default: it has no state.db")
    if source.resolve() == settings.data_dir.resolve():
        raise BadRequest(
            "--from is the data directory of the new place too: give the new one its own with DEEPWELL_DATA_DIR"
        )
    if not settings.index.url:
        raise BadRequest("the new place has no Milvus server: set DEEPWELL_INDEX__URL (and DEEPWELL_STORE__URL)")
    if (running := holder(source)) or (running := holder(source, "worker.lock")):
        raise Conflict(f"{source} is in use by process {running.pid}: stop that Deepwell first, then move")


def copied(source: Path, copy: Path, say: Say) -> None:
    """Copy the source's databases; they are opened there, and the source stays as it is. Raises StorageFull."""
    shutil.rmtree(copy, ignore_errors=True)
    (copy / "milvus").mkdir(parents=True)
    parts = [*source.glob("state.db*"), source / "milvus", source / "lexical"]
    size = sum(file.stat().st_size for part in parts for file in (part, *part.rglob("*")) if file.is_file())
    if (free := shutil.disk_usage(copy).free) < size + (64 << 20):
        raise StorageFull(
            f"a copy of {source}'s databases needs {size >> 20} MiB in {copy.parent}, and {free >> 20} MiB are free"
        )
    say(f"copying {size >> 20} MiB of databases")
    for part in parts:
        if part.is_dir():
            shutil.copytree(part, copy / part.name, dirs_exist_ok=True)
        elif part.exists() and not part.name.endswith(".lock"):
            shutil.copyfile(part, copy / part.name)


@asynccontextmanager
async def lite(directory: Path) -> AsyncIterator[str]:
    """Milvus Lite on a directory; gives its address. Raises IndexUnavailable."""
    from connectors.milvus_client import lite_command

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = await asyncio.create_subprocess_exec(
        *lite_command(directory, port), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        line = await process.stderr.readline()
        if b"listens" not in line:
            raise IndexUnavailable(f"the source's vectors cannot be read: {line.decode(errors='replace').strip()}")
        draining = asyncio.create_task(process.stderr.read())
        yield f"http://127.0.0.1:{port}"
        draining.cancel()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
