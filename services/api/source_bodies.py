"""Bodies of the routes of sources."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from pipelines.types import JobState
from services.api.schemas import Body


class SourceCreate(Body):
    """Where documents are to come from."""

    kind: str = Field(description="folder, web, sitemap, s3, git or push.", max_length=16)
    location: str = Field(
        "", max_length=20_000, description="Folder, addresses (separated by blanks), bucket or repository."
    )
    knowledge_base: str = Field("default", description="Name of a knowledge base there is.")
    name: str = Field("", max_length=200, description="What it is called; its location if left out.")
    options: dict[str, str] = Field(
        default_factory=dict, description="prefix, include, exclude and what the kind takes, see the guide of each."
    )
    credentials: dict[str, SecretStr] = Field(default_factory=dict, description="Secrets; never shown again.")
    schedule: str | None = Field(
        None, max_length=100, description="15m, 6h, 1d, a cron line, or manual. Null: what is usual for the kind."
    )
    watch: bool | None = Field(None, description="See changes in a folder at once. Null: yes for folders.")


class SourceChange(Body):
    """What to change; what is left out stays."""

    name: str | None = Field(None, max_length=200)
    schedule: str | None = Field(None, max_length=100)
    watch: bool | None = None
    credentials: dict[str, SecretStr] | None = Field(None, description="In the place of all there were.")


class SyncRequest(Body):
    """How to sync."""

    allow_empty: bool = Field(False, description="Delete documents even if the source has nothing any more.")


class SourceProblem(BaseModel):
    """What no document came of, or could not be fetched just now."""

    external_id: str
    code: str
    error: str


class Source(BaseModel):
    """A source and how its last sync went."""

    id: str
    name: str
    kind: str
    location: str
    knowledge_base: str
    options: dict[str, str]
    credentials: list[str] = Field(description="Names of the secrets that are set.")
    schedule: str = Field(description="Empty: on demand.")
    watch: bool
    watch_error: str | None = Field(description="Why changes are not seen at once.")
    next_sync: str | None
    state: JobState | Literal[""] = Field(description="Of the last sync; empty before the first.")
    step: str = Field(description="listing, fetching or deleting while a sync runs.")
    done: int
    total: int
    error: str | None
    code: str | None
    counts: dict[str, int] = Field(
        description="Of the last sync: listed, added, changed, unchanged, deleted, skipped, failed."
    )
    problems: list[SourceProblem] = Field(description="The first hundred.")
    documents: dict[str, int] = Field(description="Its documents by state.")
    began: str | None
    ended: str | None
    created: str


class Sources(BaseModel):
    """Sources of the knowledge bases that the key may use, by name."""

    sources: list[Source]


class SourceRemoval(BaseModel):
    """A source that is gone; its documents are being deleted unless they were to be kept."""

    id: str
    name: str
    documents: int
    kept: bool


class SourceDocument(BaseModel):
    """A document of a source by what the source calls it."""

    external_id: str
    document_id: str
    name: str
    version: str


class SourceDocuments(BaseModel):
    """Documents of a source, by external id."""

    documents: list[SourceDocument]
