"""Answers without a model that can write: the sentences of the passages that answer best, quoted and cited.

Right in any language the embedding model knows, since nothing is generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.language import Language
from pipelines.phrases import NOTHING_FOUND, QUOTES, STAND_IN, STAND_IN_ALONE
from pipelines.rag import TextEmbeddings
from pipelines.sentences import overlap, sentences, shorten, terms
from pipelines.types import Citation, Hit

#: passages whose sentences are looked at, and sentences embedded in all
PASSAGES, CANDIDATES = 4, 24
#: quotes given at most
QUOTES_LIMIT = 3
#: how far below the best sentence another quote may lie (similarity + half the shared terms)
MARGIN = 0.03
#: characters a quote is filled up to with the sentences after the best one: tables of PDF files fall into short lines
QUOTE_FILL = 240
#: score below which the best sentence answers nothing, by a word in the embedding model's name: cosines of different
#: models are not comparable. e5, measured on samples/: 24 questions to them 0.908 to 1.002, 15 others 0.769 to 0.879
WEAK = {"e5": 0.89}
#: characters a sentence needs to say something by itself
SHORT = 12


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of passage n that answers, with how well it does."""

    n: int
    sentence: str
    score: float


async def best_quotes(embeddings: TextEmbeddings, question: str, hits: Sequence[Hit]) -> list[Quote]:
    """The sentences nearest to the question, best first, at most QUOTES_LIMIT; none if even the best is far from it.

    Similarity decides, shared terms break near ties; passages that were found with a better score go first.
    Raises ModelUnavailable.
    """
    candidates = _candidates(question, hits)
    if not candidates:
        return []
    vector = await embeddings.embed_question(question)
    vectors = await embeddings.embed_passages([quote.sentence for quote in candidates])
    similarity = vectors @ vector / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector) + 1e-9)
    scored = [
        Quote(quote.n, quote.sentence, float(near) + quote.score)
        for quote, near in zip(candidates, similarity, strict=True)
    ]
    scored.sort(key=lambda quote: -quote.score)
    model = embeddings.identity.model.lower()
    if scored[0].score < max((floor for name, floor in WEAK.items() if name in model), default=0.0):
        return []
    best: list[Quote] = []
    for quote in scored:
        if quote.score < scored[0].score - MARGIN or len(best) == QUOTES_LIMIT:
            break
        whole = around(hits[quote.n - 1].chunk.text, quote.sentence)
        if not any(quote.sentence in other.sentence or other.sentence[:80] in whole for other in best):
            best.append(replace(quote, sentence=whole))
    return best


def around(passage: str, sentence: str) -> str:
    """The sentence and what follows it in the passage, up to QUOTE_FILL characters."""
    every = sentences(passage)
    if len(sentence) >= QUOTE_FILL or sentence not in every:
        return sentence
    rest = every[every.index(sentence) :]
    return shorten("".join(part if part[-1] in "。！？" else part + " " for part in rest).rstrip(), QUOTE_FILL)


def _candidates(question: str, hits: Sequence[Hit]) -> list[Quote]:
    wanted = terms(question)
    found: list[Quote] = []
    for n, hit in enumerate(hits[:PASSAGES], 1):
        place = 0.02 * (PASSAGES - n) / PASSAGES
        for sentence in sentences(hit.chunk.text):
            if len(sentence) >= SHORT and not sentence.startswith("#") and not sentence.endswith(("?", "？")):
                found.append(Quote(n, sentence, 0.1 * overlap(wanted, terms(sentence)) + place))
    if not found:
        found = [
            Quote(n, hit.chunk.text.strip(), 0.0) for n, hit in enumerate(hits[:PASSAGES], 1) if hit.chunk.text.strip()
        ]
    found.sort(key=lambda quote: -quote.score)
    return found[:CANDIDATES]


def write(quotes: Sequence[Quote], language: Language) -> str:
    """The answer: a lead sentence, the quotes, and how to get a real model."""
    if not quotes:
        return f"{NOTHING_FOUND[language]}\n\n{STAND_IN_ALONE[language]}"
    lines = [f"> {shorten(quote.sentence)} [{quote.n}]" for quote in quotes]
    return "\n\n".join([QUOTES[language], *lines, STAND_IN[language]])


def citations(quotes: Sequence[Quote], hits: Sequence[Hit]) -> tuple[Citation, ...]:
    """The passages quoted, by number; the quote is the sentence itself."""
    found: dict[int, Citation] = {}
    for quote in quotes:
        chunk = hits[quote.n - 1].chunk
        found.setdefault(
            quote.n,
            Citation(
                n=quote.n,
                chunk_id=chunk.id,
                document_id=chunk.document_id,
                document=chunk.document,
                page=chunk.page,
                quote=shorten(quote.sentence),
            ),
        )
    return tuple(found[n] for n in sorted(found))
