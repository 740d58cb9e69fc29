"""Who may work when: inside one worker process, and among the workers of a data directory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.lock import turn


class Turns:
    """One job at a time for each document; and a suspect job works while no other does.

    A job that was begun several times without getting anywhere may be the one that crashes the worker. Alone, it
    takes nobody with it, and its attempts are its own.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` holds a file for each document that a worker is busy with."""
        self._directory = directory
        self._documents: dict[str, tuple[asyncio.Lock, int]] = {}
        self._changed = asyncio.Condition()
        self._working = 0
        self._suspects = 0

    @asynccontextmanager
    async def document(self, document_id: str, wait: bool = True) -> AsyncIterator[None]:
        """Wait until no other job works on this document, here or in another worker.

        Raises Conflict instead of waiting for another worker if not to `wait`.
        """
        lock, waiting = self._documents.get(document_id, (asyncio.Lock(), 0))
        self._documents[document_id] = (lock, waiting + 1)
        try:
            async with lock, turn(self._directory / f"{document_id}.lock", wait):
                yield
        finally:
            waiting = self._documents[document_id][1] - 1
            self._documents[document_id] = (lock, waiting)
            if waiting == 0:
                del self._documents[document_id]

    def busy(self, document_id: str) -> bool:
        """Whether a job of this worker works on the document or waits for it."""
        return document_id in self._documents

    @asynccontextmanager
    async def work(self, suspect: bool) -> AsyncIterator[None]:
        """Wait for a turn: with others, or for a suspect alone; suspects go first."""
        async with self._changed:
            self._suspects += suspect
            try:
                await self._changed.wait_for(lambda: self._working == 0 if suspect else self._suspects == 0)
            except asyncio.CancelledError:
                self._suspects -= suspect
                self._changed.notify_all()
                raise
            self._working += 1
        try:
            yield
        finally:
            async with self._changed:
                self._working -= 1
                self._suspects -= suspect
                self._changed.notify_all()
