"""Tantivy: the full-text leg, a BM25 index in a directory, searched in the calling process.

Any number of processes may read; one writes at a time, each write being one commit: durable and visible to every
reader when it returns, and whole or not there at all if the process is killed. Measured at 100,000 passages: 1.2 ms
CPU a question, filtered by knowledge base. The words come from `pipelines.lexical`; Tantivy splits at white space.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import Conflict, IndexUnavailable, StorageFull
from pipelines.lexical import SEGMENTATION, reachable, segmented, words
from pipelines.splitters import passage_text
from pipelines.types import Chunk, Scored

T = TypeVar("T")
#: different words of a question that are looked for: the rarest
MOST_WORDS = 64
#: seconds to wait for another process that is writing
PATIENCE = 30.0
#: hits looked at first where only some chunks may be found
FIRST_LOOK = 500
_HEAP = 20_000_000
#: what Tantivy's BM25 multiplies idf with at most: k1 + 1 with its fixed k1 = 1.2
_CEILING = 2.2


class TantivyIndex:
    """LexicalIndex over one Tantivy directory for all knowledge bases."""

    def __init__(self, directory: Path) -> None:
        """`directory` is made if it is not there, at the first call."""
        self._directory = directory
        self._index: Any = None
        self._reading = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tantivy")
        self._writing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tantivy-writer")

    async def upsert(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks and commit. Raises IndexUnavailable, StorageFull."""
        rows = [(chunk.knowledge_base_id, chunk.id, passage_text(chunk)) for chunk in chunks]
        if rows:
            await self._run(self._writing, lambda: self._upsert(rows))

    def _upsert(self, rows: Sequence[tuple[str, str, str]]) -> None:
        from tantivy import Document

        def change(writer: Any) -> None:
            for knowledge_base, chunk, text in rows:
                key = _key(knowledge_base, chunk)
                writer.delete_documents_by_term("key", key)
                document = Document()
                document.add_text("key", key)
                document.add_text("knowledge_base", knowledge_base)
                document.add_text("words", segmented(text))
                writer.add_document(document)

        self._write(change)

    def _write(self, change: Callable[[Any], None]) -> None:
        writer = self._writer()
        try:
            change(writer)
            writer.commit()
        finally:
            writer.wait_merging_threads()  # gives the lock back

    def _writer(self) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._opened().writer(_HEAP, 1)
            except ValueError as error:
                if "LockBusy" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise IndexUnavailable(
                        f"another process has been writing the full-text index for {PATIENCE:.0f} s: try again later"
                    ) from error
                time.sleep(0.05)

    async def flush(self) -> None:
        """Nothing is left to do: each write is committed."""

    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Best chunks by BM25 (k1 1.2, b 0.75; higher is better), with the share of the question's weight they have."""
        bases = list(dict.fromkeys(knowledge_base_ids))
        if not bases or limit <= 0 or not (asked := list(dict.fromkeys(words(text)))):
            return []
        return await self._run(self._reading, lambda: self._search(bases, asked, limit, only))

    def _search(
        self, knowledge_bases: list[str], asked: list[str], limit: int, only: Collection[str] | None
    ) -> list[Scored]:
        from tantivy import Occur, Query

        searcher, schema = self._searcher(), self._opened().schema
        number = searcher.num_docs
        found_in = {word: min(searcher.doc_freq("words", word), number) for word in asked}
        known = sorted((word for word in asked if found_in[word]), key=found_in.__getitem__)[:MOST_WORDS]
        if not known:
            return []
        weights = {word: _idf(number, found_in[word]) for word in known}
        unknown = [word for word in asked if not found_in[word]]
        most = _CEILING * reachable(weights, unknown, rare=_idf(number, 0))
        terms = [(Occur.Should, Query.term_query(schema, "words", word, "freq")) for word in known]
        inside = Query.const_score_query(Query.term_set_query(schema, "knowledge_base", knowledge_bases), 0.0)
        query = Query.boolean_query([(Occur.Must, Query.boolean_query(terms)), (Occur.Must, inside)])
        return [
            Scored(id=chunk, score=score, coverage=min(1.0, score / most))
            for score, chunk in _best(searcher, query, limit, only)
        ]

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id and commit."""
        keys = [_key(knowledge_base_id, chunk) for chunk in chunk_ids]

        def change(writer: Any) -> None:
            for key in keys:
                writer.delete_documents_by_term("key", key)

        if keys:
            await self._run(self._writing, lambda: self._write(change))

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id of the knowledge base, in no order."""

        def work() -> list[str]:
            from tantivy import Query

            searcher, schema = self._searcher(), self._opened().schema
            if not (number := searcher.num_docs):
                return []
            inside = Query.term_query(schema, "knowledge_base", knowledge_base_id, "basic")
            return [_chunk_id(searcher, address) for _, address in searcher.search(inside, number, count=False).hits]

        return await self._run(self._reading, work)

    async def having(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> list[str]:
        """Those of these chunk ids that are stored."""
        keys = [_key(knowledge_base_id, chunk) for chunk in chunk_ids]

        def work() -> list[str]:
            from tantivy import Query

            if not keys:
                return []
            searcher, schema = self._searcher(), self._opened().schema
            wanted = Query.term_set_query(schema, "key", keys)
            return [_chunk_id(searcher, address) for _, address in searcher.search(wanted, len(keys), count=False).hits]

        return await self._run(self._reading, work)

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove everything of the knowledge base and commit."""
        await self._run(
            self._writing,
            lambda: self._write(lambda writer: writer.delete_documents_by_term("knowledge_base", knowledge_base_id)),
        )

    async def ping(self) -> None:
        """Return if the index can be opened."""
        await self._run(self._reading, self._searcher)

    async def close(self) -> None:
        """Let threads end; a write in progress is finished first."""
        await asyncio.to_thread(self._writing.shutdown)
        self._reading.shutdown(wait=False)
        self._index = None

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, self._translated, work)

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (ValueError, OSError, SystemError) as error:  # what the tantivy wheel raises
            if "No space left" in str(error):
                raise StorageFull(f"no space left for the full-text index in {self._directory}: free some") from error
            raise IndexUnavailable(f"the full-text index in {self._directory} cannot be used: {error}") from error

    def _searcher(self) -> Any:
        """A searcher of the newest commit of any process (0.02 ms when there is no newer one)."""
        self._opened().reload()
        return self._index.searcher()

    def _opened(self) -> Any:
        if self._index is None:
            from tantivy import Index, SchemaBuilder

            fields = SchemaBuilder()
            fields.add_text_field("key", stored=True, tokenizer_name="raw", index_option="basic")
            fields.add_text_field("knowledge_base", tokenizer_name="raw", index_option="basic")
            fields.add_text_field("words", tokenizer_name="whitespace", index_option="freq")
            self._directory.mkdir(parents=True, exist_ok=True)
            self._check_segmentation()
            index = Index(fields.build(), str(self._directory))
            index.config_reader("manual")
            self._index = index
        return self._index

    def _check_segmentation(self) -> None:
        """Words must be cut for questions as they were cut for the index."""
        mark = self._directory / "segmentation"
        if not mark.exists():
            mark.write_text(SEGMENTATION, encoding="utf-8")
        elif (cut := mark.read_text(encoding="utf-8")) != SEGMENTATION:
            raise Conflict(
                f"the full-text index in {self._directory} was cut into words by rules {cut!r}, this release uses "
                f"{SEGMENTATION!r}: remove that directory and add the documents again"
            )


def _key(knowledge_base_id: str, chunk_id: str) -> str:
    return f"{knowledge_base_id}\n{chunk_id}"


def _chunk_id(searcher: Any, address: Any) -> str:
    key: str = searcher.doc(address)["key"][0]
    return key.partition("\n")[2]


def _best(searcher: Any, query: Any, limit: int, only: Collection[str] | None) -> list[tuple[float, str]]:
    """Score and id of the best chunks; with `only`, more and more of them are looked at until enough may be found.

    A filter of terms would be slower: it looks up every id in every segment (5,000 of them in 200 ms).
    """
    looked_at = limit if only is None else max(limit, FIRST_LOOK)
    while True:
        hits = searcher.search(query, looked_at, count=False).hits
        found: list[tuple[float, str]] = []
        for score, address in hits:
            chunk = _chunk_id(searcher, address)
            if only is None or chunk in only:
                found.append((score, chunk))
            if len(found) == limit:
                return found
        if len(hits) < looked_at:
            return found
        looked_at *= 8


def _idf(documents: int, having: int) -> float:
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))
