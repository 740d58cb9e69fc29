"""Texts of many callers are embedded together, each caller gets its own, and one caller's trouble is its own."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.batching import BATCH, EmbeddingBatcher
from pipelines.errors import ModelUnavailable
from pipelines.rag import TextEmbeddings, Vectors
from pipelines.rerank import EmbeddingReranker, word_shares
from pipelines.types import EmbeddingIdentity


class Letters(TextEmbeddings):
    """An embedding of counts of letters: exact, instant, and slow on request."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []

    @property
    def identity(self) -> EmbeddingIdentity:
        return EmbeddingIdentity(model="letters", revision="1", dimension=26)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        self.sizes.append(len(texts))
        await asyncio.sleep(self.seconds)
        if "fail" in texts:
            raise ModelUnavailable("no model")
        rows = [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), 26)

    async def embed_question(self, text: str) -> Vectors:
        counts: Vectors = np.array([text.lower().count(chr(97 + i)) for i in range(26)], np.float32)
        return np.asarray(counts / (np.linalg.norm(counts) or 1), np.float32)


async def test_what_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    embeddings = Letters(0.01)
    batcher = EmbeddingBatcher(embeddings)
    results = await asyncio.gather(*(batcher.passages(["a" * i]) for i in range(1, 41)))
    for i, (vectors, tokens) in enumerate(results, 1):
        assert vectors.shape == (1, 26) and vectors[0][0] == i and tokens == [i]
    assert len(embeddings.sizes) <= 2
    assert sum(embeddings.sizes) == 40


async def test_a_lone_text_does_not_wait_and_a_big_request_lets_others_in_between() -> None:
    embeddings = Letters(0.002)
    batcher = EmbeddingBatcher(embeddings)
    big = asyncio.create_task(batcher.passages(["b"] * (BATCH * 5 + 1)))
    await asyncio.sleep(0.001)
    await batcher.passages(["a"])
    assert not big.done()
    vectors, tokens = await big
    assert vectors.shape == (BATCH * 5 + 1, 26) and len(tokens) == BATCH * 5 + 1
    assert (await batcher.passages([]))[0].shape == (0, 26)


async def test_an_error_reaches_its_callers_and_the_next_batch_does_well() -> None:
    batcher = EmbeddingBatcher(Letters(0.002))
    first = asyncio.create_task(batcher.passages(["fail"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(batcher.passages(["a"]))
    with pytest.raises(ModelUnavailable):
        await first
    assert (await second)[1] == [1]


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    batcher = EmbeddingBatcher(Letters(0.01))
    first, gone, last = (asyncio.create_task(batcher.passages([text])) for text in ("a", "b", "c"))
    await asyncio.sleep(0.001)
    gone.cancel()
    assert (await first)[0][0][0] == 1
    assert (await last)[0][0][2] == 1


async def test_reranking_puts_the_passage_with_the_words_first_and_stays_between_0_and_1() -> None:
    reranker = EmbeddingReranker(EmbeddingBatcher(Letters()))
    texts = ["zzz qqq", "annual leave is 25 days", "leave the room", ""]
    scores = await reranker.rerank("annual leave", texts)
    assert max(range(4), key=lambda i: scores[i]) == 1
    assert all(0 <= score <= 1 for score in scores)
    assert await reranker.rerank("annual leave", []) == []


async def test_late_passages_are_scored_by_their_words_instead_of_failing() -> None:
    embeddings = Letters(0.05)
    reranker = EmbeddingReranker(EmbeddingBatcher(embeddings), budget=0.075)
    texts = [f"filler {i}" for i in range(63)] + ["annual leave"]
    scores = await reranker.rerank("annual leave", texts)
    assert len(scores) == 64
    assert scores[63] == max(scores), "the promising ones are embedded first"
    assert 0 < len([score for score in scores if score == 0.0]) < 63
    embeddings.seconds = 0
    again = await reranker.rerank("annual leave", texts)
    assert all(score > 0 for score in again)


def test_rare_words_count_more() -> None:
    shares = word_shares("annual leave policy", ["policy", "policy leave", "policy annual", "policy"])
    assert shares[1] > 2 * shares[0]
    assert word_shares("", ["x"]) == [0.0]
    assert word_shares("在宅勤務", ["在宅勤務は週二日", "year"])[0] == 1.0
