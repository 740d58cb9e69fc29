"""Reranking without a cross-encoder: the embedding model's similarity and the question's words, in one score.

No reranking model is packaged. What stands here scores each passage by itself with the two signals we have: cosine
similarity of the embeddings, spread over 0..1, and the share of the question's words that the passage has. It
orders better than either alone and is comparable between calls, but it reads question and passage apart; a
served cross-encoder, which reads them together, is better and takes this one's place through `Rag.reranker`.
"""

import asyncio
import contextlib
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence

import numpy as np

from pipelines.batching import EmbeddingBatcher
from pipelines.lexical import words
from pipelines.rag import Vectors

#: seconds a caller may wait: Jina's client and Dify's give up after 5
BUDGET = 4.0
#: weight of the words where some passage has all of them; less where none has many, as across languages
LEXICAL = 0.5
#: passages whose vectors are remembered: clients rerank what they were just given. 4,096 of 384 floats are 6 MiB
REMEMBERED = 4096
_SLICE = 16


class EmbeddingReranker:
    """Scores in 0..1, one for each text, in the order given."""

    def __init__(self, batcher: EmbeddingBatcher, budget: float = BUDGET) -> None:
        self._batcher = batcher
        self._budget = budget
        self._known: OrderedDict[bytes, Vectors] = OrderedDict()

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """Raises ModelUnavailable. Texts not embedded within the budget are scored by their words alone, lower."""
        if not texts:
            return []
        shares = word_shares(question, texts)
        asked = await self._batcher.embeddings.embed_question(question)
        vectors = await self._vectors(texts, sorted(range(len(texts)), key=lambda i: -shares[i]))
        cosines = [None if vector is None else float(np.dot(asked, vector)) for vector in vectors]
        return combined(self._batcher.embeddings.identity.model, cosines, shares)

    async def _vectors(self, texts: Sequence[str], order: Sequence[int]) -> list[Vectors | None]:
        """A vector for each text, None for those that the budget did not reach; the promising ones come first."""
        found: list[Vectors | None] = [None] * len(texts)
        keys = [hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).digest() for text in texts]
        todo = []
        for i in order:
            if (known := self._known.get(keys[i])) is not None:
                self._known.move_to_end(keys[i])
                found[i] = known
            else:
                todo.append(i)
        with contextlib.suppress(TimeoutError):  # late is no failure: the rest keeps the score of its words
            async with asyncio.timeout(self._budget):
                for start in range(0, len(todo), _SLICE):
                    part = todo[start : start + _SLICE]
                    vectors, _ = await self._batcher.passages([texts[i] for i in part])
                    for i, vector in zip(part, vectors, strict=True):
                        found[i] = unit(vector)
                        self._remember(keys[i], unit(vector))
        return found

    def _remember(self, key: bytes, vector: Vectors) -> None:
        self._known[key] = vector
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def combined(model: str, cosines: Sequence[float | None], shares: Sequence[float]) -> list[float]:
    """One score in 0..1 of each passage's cosine (None: not known, counts as nothing) and share of words."""
    middle, slope = calibration(model)
    weight = LEXICAL * max(shares, default=0.0)
    spread = [0.0 if each is None else 1 / (1 + math.exp(-slope * (each - middle))) for each in cosines]
    return [(1 - weight) * dense + weight * share for dense, share in zip(spread, shares, strict=True)]


def unit(vector: Vectors) -> Vectors:
    """The vector with length 1; zeros stay zeros."""
    return np.asarray(vector / (float(np.linalg.norm(vector)) or 1.0), np.float32)


def calibration(model: str) -> tuple[float, float]:
    """Middle and slope of the logistic function that spreads a model's cosines over 0..1.

    The E5 family was trained with a temperature of 0.01, which presses all cosines into about 0.7..1.0 (its model
    card says so): measured on five sets, passages that answer have 0.78..0.90, others of the best 0.73..0.84. Other
    models use more of the range; theirs is a guess.
    """
    return (0.82, 25.0) if "e5" in model.lower() else (0.45, 10.0)


def word_shares(question: str, texts: Sequence[str]) -> list[float]:
    """Share of the question's words in each text, 0..1; a word that few of the texts have counts more."""
    asked = set(words(question))
    present = [asked & set(words(text)) for text in texts]
    spread = Counter(word for some in present for word in some)
    weights = {word: math.log(1 + len(texts) / spread[word]) if word in spread else 0.0 for word in asked}
    unseen = math.log(1 + len(texts))
    total = sum(weights[word] or unseen for word in asked)
    return [sum(weights[word] for word in some) / total if total else 0.0 for some in present]
