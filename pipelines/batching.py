"""Texts of many callers, embedded together: whatever arrives while a batch runs is the next batch.

Dify and others send one text a request. A lone text never waits: batches grow only while the model is busy.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from pipelines.rag import TextEmbeddings, Vectors

#: texts embedded at once, and the most of one caller that wait at a time, so that a big request lets others in between
BATCH = 64
#: share of a batch's time that callers just served have to come again, and the most of it in seconds. Without it two
#: halves of the callers take turns: batches of half the size, at a third more work a short text. A lone caller, who
#: never shared a batch, is not kept waiting.
LINGER, LONGEST = 0.2, 0.02


class EmbeddingBatcher:
    """Passage embedding for concurrent callers."""

    def __init__(self, embeddings: TextEmbeddings) -> None:
        self.embeddings = embeddings
        #: how many batches were run, for the benchmark
        self.batches = 0
        self._waiting: deque[tuple[Sequence[str], asyncio.Future[tuple[Vectors, list[int]]]]] = deque()
        self._arrived = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def passages(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        """Vectors of shape (len(texts), dimension), and the tokens of each text. Raises ModelUnavailable."""
        parts = [await self._part(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        if len(parts) == 1:
            return parts[0]
        empty = np.zeros((0, self.embeddings.identity.dimension), np.float32)
        return np.concatenate([empty, *(part[0] for part in parts)]), [n for part in parts for n in part[1]]

    async def _part(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        future: asyncio.Future[tuple[Vectors, list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, future))
        self._arrived.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            texts = [text for some, _ in batch for text in some]
            self.batches += 1
            # gathered, not awaited: what fails belongs to the callers, and the next batch may do well
            [result] = await asyncio.gather(self._embed(texts), return_exceptions=True)
            at = 0
            for some, future in batch:
                if not future.done():  # its caller may have left
                    if isinstance(result, BaseException):
                        future.set_exception(result)
                    else:
                        future.set_result((result[0][at : at + len(some)], result[1][at : at + len(some)]))
                at += len(some)
            if len(batch) > 1:
                await self._linger(len(batch) + len(self._waiting), min(LINGER * (time.monotonic() - began), LONGEST))

    async def _linger(self, callers: int, seconds: float) -> None:
        """Wait until as many wait as just did, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self._waiting) < callers:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next(self) -> list[tuple[Sequence[str], asyncio.Future[tuple[Vectors, list[int]]]]]:
        batch = []
        size = 0
        while self._waiting and (size == 0 or size + len(self._waiting[0][0]) <= BATCH):
            texts, future = self._waiting.popleft()
            if not future.done():
                batch.append((texts, future))
                size += len(texts)
        return batch

    async def _embed(self, texts: list[str]) -> tuple[Vectors, list[int]]:
        # counted meanwhile: nobody waits for it after the vectors are there
        counting = asyncio.ensure_future(asyncio.to_thread(self.embeddings.count_tokens, texts))
        try:
            return await self.embeddings.embed_passages(texts), await counting
        finally:
            counting.cancel()
