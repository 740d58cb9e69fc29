"""Parts for tests of jobs: real ones in small, over files, so that a killed worker finds what it wrote.

Documents steer them by what they say: a page that holds "CRASH" kills the worker that parses it, "POISON" the worker
that embeds it, "UNREADABLE" cannot be parsed, "FLAKY" makes the embedding server unavailable twice, "FULL" makes the
disk full.
"""

import asyncio
import errno
import hashlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from pipelines.errors import Conflict, ModelUnavailable, UnreadableDocument
from pipelines.ingest import IngestParts
from pipelines.rag import TextEmbeddings, Vectors
from pipelines.types import Chunk, EmbeddingIdentity, Scored


class HashEmbeddings(TextEmbeddings):
    """Vectors from hashes; `delay` seconds a batch; each text embedded is noted in `log`."""

    def __init__(self, log: Path, delay: float = 0.0, model: str = "hash") -> None:
        self._log, self._delay, self._model = log, delay, model
        self._flaky = 0

    @property
    def identity(self) -> EmbeddingIdentity:
        return EmbeddingIdentity(model=self._model, revision="1", dimension=8)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        await asyncio.sleep(self._delay)
        if any("POISON" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("FLAKY" in text for text in texts) and self._flaky < 2:
            self._flaky += 1
            raise ModelUnavailable("the embedding server does not answer")
        with self._log.open("a") as log:
            log.writelines(json.dumps(text) + "\n" for text in texts)
        return np.stack([self._vector(text) for text in texts])

    async def embed_question(self, text: str) -> Vectors:
        return self._vector(text)

    @staticmethod
    def _vector(text: str) -> Vectors:
        raw = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8).astype(np.float32)
        return raw / np.linalg.norm(raw)


class FileIndex:
    """Vectors in a SQLite file; acknowledged is stored, as with Milvus."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS rows (kb TEXT, id TEXT, vector BLOB, PRIMARY KEY (kb, id))")
        self._db.execute("CREATE TABLE IF NOT EXISTS made (kb TEXT PRIMARY KEY, model TEXT)")

    async def ensure(self, knowledge_base_id: str, identity: EmbeddingIdentity, *, beside: bool = False) -> None:
        self._db.execute("INSERT OR IGNORE INTO made VALUES (?, ?)", (knowledge_base_id, identity.model))
        (made,) = self._db.execute("SELECT model FROM made WHERE kb = ?", (knowledge_base_id,)).fetchone()
        if made != identity.model:
            raise Conflict("made with another embedding model")

    async def upsert(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        rows = [(c.knowledge_base_id, c.id, v.tobytes()) for c, v in zip(chunks, vectors, strict=True)]
        self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", rows)

    async def flush(self, knowledge_base_id: str) -> None:
        return None

    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        return []

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        self._db.executemany("DELETE FROM rows WHERE kb = ? AND id = ?", [(knowledge_base_id, i) for i in chunk_ids])

    async def ids(self, knowledge_base_id: str) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT id FROM rows WHERE kb = ?", (knowledge_base_id,))]

    async def vectors(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> dict[str, Vectors]:
        rows = self._db.execute("SELECT id, vector FROM rows WHERE kb = ?", (knowledge_base_id,))
        return {row[0]: np.frombuffer(row[1], np.float32) for row in rows if row[0] in chunk_ids}

    async def drop(self, knowledge_base_id: str) -> None:
        self._db.execute("DELETE FROM rows WHERE kb = ?", (knowledge_base_id,))

    async def drop_others(self, knowledge_base_id: str, identity: EmbeddingIdentity) -> int:
        return 0

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._db.close()


class FileWords:
    """Chunk ids in a SQLite file; what is not flushed dies with the process, as with Tantivy."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS rows (kb TEXT, id TEXT, PRIMARY KEY (kb, id))")
        self._waiting: list[tuple[str, tuple[str, ...]]] = []

    async def upsert(self, chunks: Sequence[Chunk]) -> None:
        self._waiting += [("INSERT OR REPLACE INTO rows VALUES (?, ?)", (c.knowledge_base_id, c.id)) for c in chunks]

    async def flush(self) -> None:
        for statement, values in self._waiting:
            self._db.execute(statement, values)
        self._waiting.clear()

    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        return []

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        self._waiting += [("DELETE FROM rows WHERE kb = ? AND id = ?", (knowledge_base_id, i)) for i in chunk_ids]

    async def ids(self, knowledge_base_id: str) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT id FROM rows WHERE kb = ?", (knowledge_base_id,))]

    async def having(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> list[str]:
        return [one for one in await self.ids(knowledge_base_id) if one in chunk_ids]

    async def drop(self, knowledge_base_id: str) -> None:
        self._waiting.append(("DELETE FROM rows WHERE kb = ?", (knowledge_base_id,)))

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._db.close()


class TextParser:
    """Pages of plain text are parted by form feeds; `delay` seconds a page."""

    def __init__(self, delay: float = 0.0) -> None:
        self._delay = delay

    async def parse(
        self, path: Path, out: Path, progress: Callable[[int, int | None], None], *, name: str = "",
        password: str = "", ocr: bool = True, tables: bool = False,
    ) -> int:  # fmt: skip
        pages = (await asyncio.to_thread(path.read_text)).split("\f")
        lines = []
        for number, text in enumerate(pages, 1):
            await asyncio.sleep(self._delay)
            if "CRASH" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "UNREADABLE" in text:
                raise UnreadableDocument(f"{name} is damaged: export it again")
            if "FULL" in text:
                raise OSError(errno.ENOSPC, "No space left on device")
            lines.append(json.dumps({"text": text, "number": number, "title": ""}) + "\n")
            progress(number, len(pages))
        await asyncio.to_thread(out.write_text, "".join(lines))
        return len(pages)

    async def close(self) -> None:
        return None


def parts(data_dir: Path, delay: float = 0.0, model: str = "hash") -> IngestParts:
    """The parts over files of this directory."""
    data_dir.mkdir(parents=True, exist_ok=True)
    return IngestParts(
        embeddings=HashEmbeddings(data_dir / "embedded.log", delay, model),
        index=FileIndex(data_dir / "vectors.db"),
        lexical=FileWords(data_dir / "words.db"),
    )


def text_of(pages: int, words: int = 60, seed: str = "") -> str:
    """Pages of words that all differ."""
    return "\f".join(
        " ".join(f"w{seed}{page}x{word}" + ("." if word % 10 == 9 else "") for word in range(words))
        for page in range(pages)
    )


def wait_for(condition: Callable[[], object], timeout: float = 120.0) -> None:
    """Return once the condition holds; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
