"""The seam of document sources: each file in `connectors/sources/` offers `check` and `open_source`.

Adding a kind of source is adding a file there. A source lists what it has and fetches one thing at a time; what has
changed, what is gone and what is done about it is decided in services/sync.py, the same for all of them.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipelines.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Where a source is and how it is reached."""

    #: folder, address, bucket
    location: str
    #: what this kind of source takes, by name
    options: Mapping[str, str] = field(default_factory=dict)
    #: secrets by name; never shown, never logged
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: folder of its own that stays between syncs
    work_dir: Path = Path()
    #: hosts and networks that may be asked though they are private, see connectors.guard
    private_hosts: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something a source has."""

    #: what the source calls it; stable
    external_id: str
    #: what citations call it
    name: str
    #: opaque; equal versions have equal contents. "" if only fetching tells
    version: str = ""
    #: bytes, if known
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlisted:
    """A part of the source that could not be looked into: what is known of it stays as it is."""

    #: external ids that begin so
    prefix: str
    #: in words
    reason: str


class Content(Protocol):
    """Bytes that come bit by bit."""

    async def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was fetched, and which version it is."""

    content: Content
    version: str
    #: path or URL, for people
    address: str = ""
    #: what citations call it, where only fetching tells; "" for the item's name
    name: str = ""


class Source(Protocol):
    """An open source. A listing that ends without an error is complete but for what it calls Unlisted."""

    #: items fetched at once
    parallel: int

    def items(self) -> AsyncIterator[Item | Unlisted]:
        """Everything it has. Raises SourceUnavailable, Forbidden, BadRequest."""

    def fetch(self, item: Item, known: str) -> AbstractAsyncContextManager[Fetched | None]:
        """The content; None if it is still the version `known`.

        Raises on entering: NotFound if it is gone for good, SourceUnavailable, Forbidden, TooLarge.
        """

    async def close(self) -> None:
        """Let go of connections."""


class Kind(Protocol):
    """What a file in connectors/sources offers. `OPTIONS` and `CREDENTIALS` name what a Spec may hold."""

    #: names with what they mean, for people
    OPTIONS: Mapping[str, str]
    CREDENTIALS: Mapping[str, str]
    #: when to look again if nobody says so; "" for on demand
    SCHEDULE: str

    def check(self, spec: Spec) -> Spec:
        """The same with its location put right. Raises BadRequest; nothing is opened yet."""

    def open_source(self, spec: Spec) -> Source:
        """Ready to be listed. Raises BadRequest if something must be installed first."""


def known_names(kind: str, what: str, given: Mapping[str, str], allowed: Mapping[str, str]) -> None:
    """Raises BadRequest that names what may be given, if something else was."""
    for name in given:
        if name not in allowed:
            there = ", ".join(sorted(allowed)) or "none"
            raise BadRequest(f"a source of kind {kind} has no {what} {name!r}; it has: {there}")
