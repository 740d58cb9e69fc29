"""What the stores hold of a document or of a knowledge base: counted before and after a deletion, for its receipt.

Every figure is looked up in the store itself, none is taken from what a deletion says that it did.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from pipelines.ingest import IngestParts
from services import notes
from services.jobs import Jobs
from services.store.store import Store

#: stores by the order in which a deletion goes through them
STORES = ("vectors", "words", "chunks", "parsed", "files", "documents", "jobs")
#: ids looked up at once
_BATCH = 500

Counts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A document as its stores know it; its row may be gone."""

    document_id: str
    knowledge_base_id: str
    sha256: str


async def count_document(store: Store, jobs: Jobs, data_dir: Path, subject: Subject) -> Counts:
    """Of one document: its `chunks` in SQL, files with its parsed text (`parsed`), its content (`files`), its row
    (`documents`) and its `jobs`.
    """
    content = data_dir / "blobs" / subject.sha256
    return {
        "chunks": await store.chunks.rows_of(subject.document_id),
        "parsed": len(await asyncio.to_thread(parsed, data_dir, subject.document_id, subject.sha256)),
        "files": int(await asyncio.to_thread(content.exists)),
        "documents": int(await store.documents.find(subject.document_id) is not None),
        "jobs": len(await jobs.of_document(subject.document_id)),
    }


async def count_indexed(parts: IngestParts, knowledge_base_id: str, chunk_ids: list[str]) -> Counts:
    """How many of these passages are in the vector index and in the full-text index (`words`)."""
    counts = {"vectors": 0, "words": 0}
    for start in range(0, len(chunk_ids), _BATCH):
        ids = chunk_ids[start : start + _BATCH]
        counts["vectors"] += len(await parts.index.vectors(knowledge_base_id, ids))
        counts["words"] += len(await parts.lexical.having(knowledge_base_id, ids))
    return counts


async def count_knowledge_base(
    store: Store, parts: IngestParts, data_dir: Path, knowledge_base_id: str, hashes: list[str]
) -> Counts:
    """The same of a whole knowledge base, without jobs. `hashes` are those its documents had when it was deleted."""
    counts = {
        "vectors": len(await parts.index.ids(knowledge_base_id)),
        "words": len(await parts.lexical.ids(knowledge_base_id)),
    }
    counts["chunks"], counts["documents"] = await store.purge.rows_of(knowledge_base_id)
    blobs = data_dir / "blobs"
    counts["files"] = await asyncio.to_thread(lambda: sum((blobs / each).exists() for each in hashes))
    return counts


def parsed(data_dir: Path, document_id: str, sha256: str) -> list[Path]:
    """Files and folders with text of a document that a parser wrote."""
    found = [*(data_dir / "work").glob(f"ingest-{document_id}-*"), data_dir / notes.FOLDER / f"{sha256}.json"]
    return [path for path in found if path.exists()]


def receipt(before: Counts, after: Counts) -> dict[str, dict[str, int]]:
    """Both counts by store."""
    return {name: {"before": before[name], "after": after[name]} for name in STORES if name in before}
