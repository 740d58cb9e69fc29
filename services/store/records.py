"""Rows as the rest of Deepwell sees them: frozen records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.types import EmbeddingIdentity, JobState, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeBase:
    """A named set of documents that is searched together."""

    id: str
    #: also the model id under which clients ask it
    name: str
    description: str
    #: what its vectors were made with; None before the first document
    embedding: EmbeddingIdentity | None
    #: seconds since 1970
    created: float
    #: how that model is reached, see services.embedders; None for the one that the settings name
    embedder: Mapping[str, str] | None = None
    #: since when its ingestion is paused, in seconds since 1970
    paused: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file in a knowledge base, and how far its job is."""

    id: str
    knowledge_base_id: str
    name: str
    #: path or URL it came from, "" for a plain upload
    source: str
    media_type: str
    #: bytes
    size: int
    #: of the content last given to us
    sha256: str
    #: of the content that searches see, "" before the first success
    indexed_sha256: str
    state: JobState
    #: "parsing", "splitting", "embedding", "finishing", "deleting" while a job runs, else ""
    step: str
    #: why it failed, in words
    error: str
    error_code: str
    #: passages that searches see
    chunks: int
    pages_done: int
    pages_total: int
    #: seconds until the job ends, as far as one can tell
    eta: float | None
    #: the one job that may change this document
    job_id: str
    #: how often its job was begun without getting anywhere
    attempts: int
    created: float
    updated: float
    #: when it was deleted; it is invisible since then
    deleted: float | None
    #: the source it comes from, what it is called there, and which version of it this is; None for an upload
    source_id: str | None = None
    external_id: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where documents of a knowledge base come from, and how its last sync went."""

    id: str
    knowledge_base_id: str
    #: name of the file in connectors/sources
    kind: str
    name: str
    #: folder, address, bucket
    location: str
    #: what the kind takes; never a secret
    options: Mapping[str, str]
    #: "15m", a cron line, or "" for on demand
    schedule: str
    #: whether changes are looked for as they happen, and why that does not work
    watch: bool
    watch_error: str
    #: of the last sync, "" before the first
    state: JobState | Literal[""]
    #: "listing", "fetching" or "deleting" while a sync runs
    step: str
    error: str
    error_code: str
    #: items looked at, and to look at
    done: int
    total: int
    #: items by what became of them: listed, added, changed, unchanged, deleted, skipped, failed
    counts: Mapping[str, int]
    #: what was left out: {"external_id", "code", "error"}, the first of them
    problems: Sequence[Mapping[str, str]]
    job_id: str
    #: how often that job was begun
    attempts: int
    allow_empty: bool
    #: when the next sync is to begin
    due: float | None
    began: float | None
    ended: float | None
    created: float
    updated: float
    deleted: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key without its secret, which nobody can show again."""

    id: str
    name: str
    scopes: frozenset[Scope]
    #: ids; None means every knowledge base
    knowledge_bases: frozenset[str] | None
    created: float
    revoked: float | None
    last_used: float | None
    #: None takes the setting keys.requests_per_minute, 0 is no limit
    requests_per_minute: int | None = None
    #: None takes the setting keys.concurrent_answers, 0 is no limit
    concurrent_answers: int | None = None
    #: how its client wants answers, see services.delivery
    options: Mapping[str, Any] = field(default_factory=dict)
