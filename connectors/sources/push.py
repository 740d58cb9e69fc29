"""A source that programs push documents to over REST, each under an id of their own; there is nothing to look at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import Conflict

OPTIONS: dict[str, str] = {}
CREDENTIALS: dict[str, str] = {}
SCHEDULE = ""


def check(spec: Spec) -> Spec:
    """It is where its pushers are."""
    return replace(spec, location=spec.location or "push")


def open_source(spec: Spec) -> Source:
    """Something that cannot be listed."""
    return Push()


class Push:
    """Refuses to be synced: what is not pushed again is still there."""

    parallel = 1

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Raises Conflict."""
        raise Conflict("a push source has nothing to look at: send its documents with PUT")
        yield  # pragma: no cover - makes this an iterator

    @asynccontextmanager
    async def fetch(self, item: Item, known: str) -> AsyncIterator[Fetched | None]:
        """Raises Conflict."""
        raise Conflict("a push source has nothing to fetch")
        yield None  # pragma: no cover - makes this an iterator

    async def close(self) -> None:
        """Nothing is open."""
