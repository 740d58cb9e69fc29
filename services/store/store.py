"""Deepwell's own state: one object for the API process, the worker and the command line."""

import asyncio
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from services.store.chunks import Chunks
from services.store.database import Database
from services.store.documents import Documents
from services.store.keys import Keys
from services.store.knowledge_bases import KnowledgeBases
from services.store.migrate import migrate
from services.store.passages import Passages
from services.store.pauses import Pauses
from services.store.purge import Purge
from services.store.sources import Sources


class Store:
    """Knowledge bases, documents, passages and keys in SQL. `await Store.open(url)`; `async with` closes it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.knowledge_bases = KnowledgeBases(database)
        self.documents = Documents(database)
        self.chunks = Chunks(database)
        self.passages = Passages(database)
        self.pauses = Pauses(database)
        self.keys = Keys(database)
        self.purge = Purge(database)
        self.sources = Sources(database)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Migrate the database if needed and connect. Raises Conflict if a newer Deepwell wrote it, Unavailable."""
        await asyncio.to_thread(migrate, url)
        return cls(Database(url))

    async def ping(self) -> None:
        """Return if the database answers, else raise Unavailable."""
        await self.database.rows(sa.select(sa.literal(1)))

    async def close(self) -> None:
        """Let go of every connection."""
        await self.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
