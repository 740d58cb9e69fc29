"""What can be done with documents: the verbs behind REST, each of a few hops."""

import asyncio
import hashlib
import mimetypes
import os
import secrets
from pathlib import Path
from typing import BinaryIO, Protocol

from pipelines.errors import TooLarge
from pipelines.loaders import find
from pipelines.watch import step
from services import passwords
from services.jobs import Jobs
from services.settings import Settings
from services.store.database import database_errors
from services.store.documents import Origin, Upload
from services.store.names import document_name
from services.store.records import Document
from services.store.store import Store

READ_BYTES = 1 << 20


class Content(Protocol):
    """Bytes that come bit by bit: an upload, an open file."""

    async def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


async def add_document(
    settings: Settings,
    store: Store,
    jobs: Jobs,
    knowledge_base_id: str,
    name: str,
    content: Content,
    origin: Origin | None = None,
    password: str = "",
) -> Document:
    """Take a file in and queue its ingestion. The same content again is free; other content is a new version.

    The content goes to disk as it comes and is kept under its hash; the name is never used as a path. `password` opens
    a locked file; it is kept only until the job has ended (services.passwords). `origin` is where a source found it.
    Raises BadRequest for the name, TooLarge, UnsupportedDocument, UnreadableDocument for an empty file, StorageFull,
    Conflict if the document is another source's.
    """
    name = document_name(name)
    incoming = settings.data_dir / "incoming" / secrets.token_hex(8)
    try:
        with database_errors(), step("receive"):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            sha256, size = await _receive(content, incoming, settings.server.max_upload_mb << 20, name)
        await asyncio.to_thread(find, incoming, name)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        upload = Upload(name=name, sha256=sha256, size=size, media_type=media_type, origin=origin)
        return await _enter(store, jobs, settings.data_dir, knowledge_base_id, upload, incoming, password)
    finally:
        incoming.unlink(missing_ok=True)


async def _enter(
    store: Store, jobs: Jobs, data_dir: Path, knowledge_base_id: str, upload: Upload, incoming: Path, password: str
) -> Document:
    blobs = data_dir / "blobs"
    # the lock is for whoever removes the last copy of the same content at this moment
    async with store.database.write(lock=upload.sha256) as connection:
        before = await store.documents.content(connection, knowledge_base_id, upload.name)
        document, fresh = await store.documents.put(connection, knowledge_base_id, upload)
        if fresh:
            await asyncio.to_thread(_keep, incoming, blobs / upload.sha256)
    if fresh:
        if before and before.sha256 != upload.sha256:
            await jobs.stop(before.job_id)
            await store.purge.blob(before.sha256, blobs)
        with database_errors():
            await asyncio.to_thread(passwords.keep, data_dir / "work" / document.job_id, password)
        await jobs.ingest(document)
    return document


async def _receive(content: Content, path: Path, limit: int, name: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        while piece := await content.read(READ_BYTES):
            size += len(piece)
            if size > limit:
                raise TooLarge(
                    f"{name} is larger than {limit >> 20} MiB: split it, or raise setting server.max_upload_mb"
                )
            digest.update(piece)
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(_sync, file)
    return digest.hexdigest(), size


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _keep(incoming: Path, blob: Path) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    os.replace(incoming, blob)
