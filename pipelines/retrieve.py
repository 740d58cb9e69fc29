"""Finding the passages for a question: the one function every client goes through, and its LangChain form.

The access check is inside it: nobody can search by another way and forget it.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from itertools import zip_longest

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from pipelines.errors import BadRequest, Forbidden, NotFound
from pipelines.fusion import Fused, fuse
from pipelines.rag import DenseLeg, Rag
from pipelines.types import Caller, Chunk, Hit, Scored
from pipelines.watch import step

#: characters of a question that are searched for: about what an embedding model reads
LONGEST_QUESTION = 2000
#: best passages of all among which allowed ones are looked for
AMONG_ALL = 500
Search = Callable[[int, Collection[str] | None], Coroutine[None, None, list[Scored]]]


async def retrieve(
    rag: Rag,
    caller: Caller,
    question: str,
    knowledge_base_ids: Sequence[str],
    *,
    top_k: int = 6,
    candidates: int = 50,
    min_score: float = 0.0,
    only: Collection[str] | None = None,
) -> list[Hit]:
    """Passages for a question, best first, at most `top_k`, each with a fused score in 0..1 of at least `min_score`.

    `candidates` is how many passages each leg brings to the fusion. `only` are the ids of the passages that may be
    found, however many others rank before them. Passages whose text stands in a better one are
    left out. Raises Forbidden without the scope, NotFound for a knowledge base outside the key, BadRequest for an
    empty question, IndexUnavailable when either leg fails (half an answer would look like a whole one),
    ModelUnavailable when the embedder does, Conflict when the embedding does not fit the index.
    """
    check_access(caller, knowledge_base_ids)
    asked = question.strip()[:LONGEST_QUESTION]
    if not asked:
        raise BadRequest("the question is empty: say what to look for")
    if only is not None and not only:
        return []
    dense, lexical = await _both(
        _dense(rag, asked, knowledge_base_ids, candidates, only),
        _lexical(rag, asked, knowledge_base_ids, candidates, only),
    )
    with step("fuse"):
        found = [each for each in fuse(dense, lexical) if each.score >= min_score]
    with step("passages"):
        return await _hydrated(rag, knowledge_base_ids, found, top_k)


def check_access(caller: Caller, knowledge_base_ids: Sequence[str]) -> None:
    """Raises Forbidden, NotFound or BadRequest unless the caller may search these knowledge bases."""
    if not caller.scopes & {"retrieve", "chat", "admin"}:
        raise Forbidden(f"the key {caller.name!r} may not search: it needs the scope retrieve or chat")
    if not knowledge_base_ids:
        raise BadRequest("no knowledge base was named: name at least one")
    if caller.knowledge_bases is not None:
        for each in knowledge_base_ids:
            if each not in caller.knowledge_bases:
                raise NotFound(f"there is no knowledge base {each}, or the key {caller.name!r} may not know of it")


async def _dense(
    rag: Rag, question: str, knowledge_base_ids: Sequence[str], limit: int, only: Collection[str] | None
) -> list[Scored]:
    """Nearest passages. Cosines of two models are not comparable: their lists are merged by rank, best first."""
    alone = [(DenseLeg(embeddings=rag.embeddings, index=rag.index), list(knowledge_base_ids))]
    groups = alone if rag.legs is None else await rag.legs(knowledge_base_ids)
    found = await _both(*(_by_leg(leg, question, ids, limit, only) for leg, ids in groups))
    if len(found) == 1:
        return found[0]
    return [hit for rank in zip_longest(*found) for hit in rank if hit is not None][:limit]


async def _by_leg(
    leg: DenseLeg, question: str, knowledge_base_ids: Sequence[str], limit: int, only: Collection[str] | None
) -> list[Scored]:
    with step("embed"):
        vector = await leg.embeddings.embed_question(question)
    with step("dense"):
        return await _leg(partial(leg.index.search, knowledge_base_ids, vector), limit, only)


async def _lexical(
    rag: Rag, question: str, knowledge_base_ids: Sequence[str], limit: int, only: Collection[str] | None
) -> list[Scored]:
    with step("lexical"):
        return await _leg(partial(rag.lexical.search, knowledge_base_ids, question), limit, only)


async def _leg(search: Search, limit: int, only: Collection[str] | None) -> list[Scored]:
    """The best of one leg. Where many may be found, they are looked for among the best of all first, which is cheaper
    than to name them to the index.
    """
    if only is not None and len(only) > AMONG_ALL:
        best = [each for each in await search(AMONG_ALL, None) if each.id in only][:limit]
        if len(best) == limit:
            return best
    return await search(limit, only)


async def _both(*legs: Coroutine[None, None, list[Scored]]) -> list[list[Scored]]:
    """Both results, or the first error once both have ended: nothing keeps running behind the caller's back."""
    results = await asyncio.gather(*legs, return_exceptions=True)
    found: list[list[Scored]] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


async def _hydrated(rag: Rag, knowledge_base_ids: Sequence[str], found: Sequence[Fused], top_k: int) -> list[Hit]:
    """Hits with their chunks, read a few more than needed at a time: some are gone, some repeat a better one."""
    hits: list[Hit] = []
    texts: list[str] = []
    step = 2 * top_k
    for start in range(0, len(found), step):
        part = found[start : start + step]
        chunks = await rag.passages.get(knowledge_base_ids, [each.id for each in part])
        for each in part:
            if each.id not in chunks or (text := _plain(chunks[each.id].text)) == "":
                continue
            if any(text in better for better in texts):
                continue
            texts.append(text)
            hits.append(Hit(chunk=chunks[each.id], score=each.score, dense=each.dense, lexical=each.lexical))
            if len(hits) == top_k:
                return hits
    return hits


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


class DeepwellRetriever(BaseRetriever):
    """`retrieve` for LangChain users: `await retriever.ainvoke(question)`. Asynchronous only."""

    rag: Rag
    caller: Caller
    knowledge_base_ids: Sequence[str]
    top_k: int = 6
    candidates: int = 50
    min_score: float = 0.0

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        hits = await retrieve(
            self.rag,
            self.caller,
            query,
            self.knowledge_base_ids,
            top_k=self.top_k,
            candidates=self.candidates,
            min_score=self.min_score,
        )
        return [as_document(hit.chunk, hit.score) for hit in hits]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        raise NotImplementedError("Deepwell retrieves asynchronously: use `await retriever.ainvoke(question)`")


def as_document(chunk: Chunk, score: float) -> Document:
    """A passage as LangChain sees it; metadata: document, document_id, page, chunk_id, heading, score."""
    metadata = {
        "document": chunk.document,
        "document_id": chunk.document_id,
        "page": chunk.page,
        "chunk_id": chunk.id,
        "heading": chunk.heading,
        "score": score,
    }
    return Document(id=chunk.id, page_content=chunk.text, metadata=metadata)
