"""Whether a question is looked up rather than thought about: the evidence for one passage is decisive.

Thinking helps with questions that need several passages and hardly with single facts (NVIDIA's RAG blueprint: FRAMES
0.486 -> 0.597, DC767 0.906 -> 0.899). What a search finds shows which it is: both legs put the same passage first, and
well ahead of all others. Measured by `tests.bench.decisive_evidence`; the figures stand in docs/concepts/
reasoning-models.md.
"""

from collections.abc import Sequence

from pipelines.types import Hit

#: how far ahead the first passage is: cosines apart, and times the BM25 score of the next one
COSINE_GAP, BM25_RATIO = 0.02, 1.6


def decisive(hits: Sequence[Hit]) -> bool:
    """Whether one passage stands out in both legs. False where only one leg found something, or one passage is all."""
    if len(hits) < 2:
        return False
    first, others = hits[0], hits[1:]
    if first.dense is None or first.lexical is None:
        return False
    next_dense = max((hit.dense for hit in others if hit.dense is not None), default=None)
    next_lexical = max((hit.lexical for hit in others if hit.lexical is not None), default=None)
    if next_dense is None or next_lexical is None:
        return False
    return first.dense - next_dense >= COSINE_GAP and first.lexical >= BM25_RATIO * next_lexical
