"""What is true right now, read when a scraper asks: documents, queue, index, and whether every part answers."""

import asyncio
from pathlib import Path
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from pipelines.errors import RagError
from pipelines.types import JobState
from services.build import Deepwell

STATES: tuple[JobState, ...] = get_args(JobState)
VERSION = "0.1.0"


async def read(deepwell: Deepwell, parts: dict[str, str]) -> bytes:
    """Gauges in Prometheus' text format; `parts` says "ok" or what is wrong, by part. Those of a database that does
    not answer are left out: an old number would look like a true one.
    """
    registry = CollectorRegistry()
    made: dict[str, Any] = {"registry": registry}
    up = Gauge("deepwell_part_up", "1 if a part answers: model server, vector index, …", ["part"], **made)
    for name, state in parts.items():
        up.labels(name).set(state == "ok")
    chat = deepwell.chat
    labels = {"version": VERSION, "model": chat.id, "profile": chat.profile.name}
    Gauge("deepwell_info", "Version, model and profile in force.", [*labels], **made).labels(**labels).set(1)
    try:
        counts = await deepwell.store.documents.counts()
        bases, passages = await deepwell.store.knowledge_bases.list(), await deepwell.store.chunks.count()
        deletions = await deepwell.store.documents.being_deleted()
    except RagError:
        return generate_latest(registry)
    documents = Gauge("deepwell_documents", "Documents by state of their last job.", ["state"], **made)
    for document_state in STATES:
        documents.labels(document_state).set(counts.get(document_state, 0))
    queue = Gauge("deepwell_queue_jobs", "Jobs that wait or run, by kind: ingest, delete.", ["kind"], **made)
    queue.labels("ingest").set(counts.get("queued", 0) + counts.get("running", 0))
    queue.labels("delete").set(len(deletions))
    Gauge("deepwell_knowledge_bases", "Knowledge bases.", **made).set(len(bases))
    Gauge("deepwell_index_passages", "Passages that searches see.", **made).set(passages)
    size = Gauge("deepwell_data_bytes", "Bytes in the data directory, by what they are.", ["kind"], **made)
    for kind, folder in (("documents", "blobs"), ("words", "lexical"), ("vectors", "milvus")):
        size.labels(kind).set(await asyncio.to_thread(bytes_in, deepwell.settings.data_dir / folder))
    return generate_latest(registry)


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if it is not there."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # merged away meanwhile
    return total
