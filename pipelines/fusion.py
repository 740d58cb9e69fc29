"""Joining what the dense and the lexical leg found: a convex combination that knows when a leg has nothing to say.

Scores are made comparable first: cosines are spread over the candidates (embedding models press them into a narrow
band), BM25 is divided by its best. How much the lexical leg weighs depends on how much of the question it found: the
coverage of its best passage, the share of the question's idf weight. A question in another language than the passages
has a coverage of about 0.05 and is left to the vectors; one in the same language has 0.25 and more, and both legs
weigh the same. Reciprocal rank fusion looks at ranks only, cannot see that difference and loses a fifth of nDCG@10 on
such questions. Combination of normalised scores: Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid
Retrieval" (TOIS 2023); the weight by coverage is ours. Figures: `make bench ARGS=retrieval_quality`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.types import Scored

#: coverage from which on the lexical leg weighs as much as the dense one
EQUAL_AT = 1 / 3
#: candidates from which on the weaker half shows what unrelated passages score
ENOUGH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """A chunk id with its fused score in 0..1 and what each leg gave it; None where a leg did not find it."""

    id: str
    score: float
    dense: float | None = None
    lexical: float | None = None


def fuse(dense: Sequence[Scored], lexical: Sequence[Scored]) -> list[Fused]:
    """Both lists as one, best first; each chunk once.

    score = confidence * ((1 - w) * spread cosine + w * BM25 / best BM25), w = min(1, 3 * coverage) / 2.
    `confidence` is the same for all hits of a question: it does not change their order, and makes a threshold mean
    something. Questions about other matters get a median of 0.3 to 0.55, answerable ones 0.87 to 1.
    """
    cosine = {each.id: each.score for each in dense}
    words = {each.id: each.score for each in lexical}
    coverage = max((1.0 if each.coverage is None else each.coverage for each in lexical), default=0.0)
    spread, share = _spread(cosine), _share(words)
    weight = _weight(coverage, bool(cosine), bool(words))
    sure = confidence([each.score for each in dense], coverage)
    values = {
        each: (1 - weight) * spread.get(each, 0.0) + weight * share.get(each, 0.0) for each in {**cosine, **words}
    }
    order = sorted(values, key=lambda each: (-values[each], -cosine.get(each, -1.0), each))
    return [
        Fused(id=each, score=sure * values[each], dense=cosine.get(each), lexical=words.get(each)) for each in order
    ]


def confidence(cosines: Sequence[float], coverage: float) -> float:
    """How sure it is that the question is about these passages, 0..1: by the vectors or by the words.

    By the vectors: how far the best stands above the weaker half of the candidates, on the way to a perfect match;
    halfway is sure. With few candidates there is no telling what is weak, and the cosine itself counts. By the words:
    half of the question's weight is sure.
    """
    by_vectors = _unit(max(cosines, default=0.0))
    if len(cosines) >= ENOUGH:
        rest = sorted(cosines)[: len(cosines) // 2]
        usual = sum(rest) / len(rest)
        by_vectors = _unit(2 * (max(cosines) - usual) / (1 - usual)) if usual < 1 else 0.0
    return 1 - (1 - by_vectors) * (1 - _unit(2 * coverage))


def _weight(coverage: float, has_dense: bool, has_lexical: bool) -> float:
    if not (has_dense and has_lexical):
        return float(has_lexical)
    return _unit(coverage / EQUAL_AT) / 2


def _spread(scores: dict[str, float]) -> dict[str, float]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {each: (score - low) / (high - low) if high > low else 1.0 for each, score in scores.items()}


def _share(scores: dict[str, float]) -> dict[str, float]:
    high = max(scores.values(), default=0.0)
    return {each: score / high if high > 0 else 0.0 for each, score in scores.items()}


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
