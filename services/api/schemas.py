"""Bodies of our own REST API."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.types import Citation, Hit, JobState, Scope


class Body(BaseModel):
    """A request body; unknown fields are refused, so that a typing error is seen."""

    model_config = ConfigDict(extra="forbid")


class KnowledgeBaseCreate(Body):
    """A knowledge base to make."""

    name: str = Field(description="1 to 64 letters, digits, `-`, `_` or `.`; becomes part of a model id.")
    description: str = Field("", max_length=2000)


class KnowledgeBase(BaseModel):
    """A knowledge base and what is in it."""

    id: str
    name: str
    description: str
    documents: int
    chunks: int
    created: str
    paused: bool = Field(False, description="Its ingestion waits until somebody resumes it.")
    states: dict[str, int] = Field({}, description="Documents by the state of their latest ingestion.")
    embedding: str | None = Field(None, description="The model its vectors are made with; null while it is empty.")


class KnowledgeBases(BaseModel):
    """All knowledge bases the key may see."""

    knowledge_bases: list[KnowledgeBase]


class Document(BaseModel):
    """A document and how far its ingestion is."""

    id: str
    name: str
    knowledge_base: str
    state: JobState
    step: str = Field(description="parsing, splitting, embedding or finishing while its job runs.")
    chunks: int
    pages_done: int
    pages_total: int | None
    eta: float | None = Field(description="Seconds until it is searchable, as far as one can tell.")
    size: int = Field(description="Bytes.")
    error: str | None
    code: str | None = Field(
        None, description="The error as a word for programs; password_required asks for it to be added with a password."
    )
    job: str
    created: str
    updated: str


class PageWord(BaseModel):
    """Text and where it stands on a page."""

    text: str
    box: tuple[float, float, float, float] = Field(description="Left, top, right, bottom in points from the top left.")


class DocumentPage(BaseModel):
    """The words of a page with their boxes, to show a citation on its image."""

    number: int
    width: float = Field(description="Points, 1/72 inch.")
    height: float
    source: Literal["text", "ocr"] = Field(description="The page's own text, or what was read from its picture.")
    confidence: float = Field(description="Mean confidence of the recognition, 1 for text.")
    words: list[PageWord]


class DocumentNotes(BaseModel):
    """What parsing found out about a document."""

    remarks: list[str] = Field(description="What was left out, repaired or guessed, in words.")
    ocr_pages: list[int] = Field(description="Pages whose text was read from their picture.")


class Documents(BaseModel):
    """Documents of a knowledge base, by name."""

    documents: list[Document]


class Chunk(BaseModel):
    """A passage with its place in the document."""

    chunk_id: str
    document_id: str
    document: str
    position: int
    page: int | None
    page_end: int | None
    heading: str
    start: int
    end: int
    text: str


class Chunks(BaseModel):
    """Passages of a document in reading order."""

    chunks: list[Chunk]


class SearchRequest(Body):
    """A question to find passages for."""

    query: str = Field(min_length=1, max_length=100_000)
    knowledge_bases: list[str] | None = Field(None, description="Names; all that the key may see if left out.")
    top_k: int = Field(6, ge=1, le=100)
    min_score: float = Field(0.0, ge=0, le=1)


class SearchHit(BaseModel):
    """A passage found."""

    chunk_id: str
    document_id: str
    document: str
    page: int | None
    score: float = Field(description="Fused score, 0 to 1.")
    text: str
    url: str = Field(description="Signed link to the passage; opens without a key.")

    @classmethod
    def of(cls, hit: Hit, url: str) -> "SearchHit":
        """From the pipeline's word for it."""
        chunk = hit.chunk
        return cls(
            chunk_id=chunk.id,
            document_id=chunk.document_id,
            document=chunk.document,
            page=chunk.page,
            score=round(hit.score, 4),
            text=chunk.text,
            url=url,
        )


class SearchResult(BaseModel):
    """Passages, best first."""

    hits: list[SearchHit]


class AskRequest(Body):
    """A question to answer from the documents."""

    question: str = Field(min_length=1, max_length=100_000)
    knowledge_bases: list[str] | None = Field(None, description="Names; all that the key may see if left out.")
    top_k: int | None = Field(None, ge=1, le=100)
    stream: bool = Field(False, description="Server-sent events: sources, reasoning, text, finish.")


class AskCitation(BaseModel):
    """What an `[n]` of the answer points to."""

    n: int
    chunk_id: str
    document_id: str
    document: str
    page: int | None
    quote: str
    url: str = Field(description="Signed link to the passage with the quote marked; opens without a key.")

    @classmethod
    def of(cls, citation: Citation, url: str) -> "AskCitation":
        """From the pipeline's word for it."""
        fields = {name: getattr(citation, name) for name in cls.model_fields if name != "url"}
        return cls(**fields, url=url)


class CitedPassage(BaseModel):
    """The passage that a citation's link points to, with what stands before and after it in the document."""

    document: str
    document_id: str
    chunk_id: str
    page: int | None
    heading: str
    quote: str = Field(description="The sentence cited, as it stands in `text`; empty where the link names none.")
    text: str
    before: str
    after: str


class Answer(BaseModel):
    """An answer with its reasoning and citations."""

    answer: str
    reasoning: str
    citations: list[AskCitation]
    abstained: bool
    model: str
    warnings: list[str]
    timings: dict[str, float]


class Readiness(BaseModel):
    """Whether questions can be answered, and the state of each part: "ok", or what is wrong."""

    ready: bool
    model: str
    parts: dict[str, str]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class KeyCreate(Body):
    """A key to make."""

    name: str = Field(min_length=1, max_length=200, description="For whom it is, e.g. `dify`.")
    scopes: list[Scope] = Field(["chat", "retrieve"], min_length=1)
    knowledge_bases: list[str] | None = Field(None, description="Names; every one, later ones too, if left out.")
    secret: str = Field("", max_length=200, description="A secret that a client sends anyway; random if left out.")
    requests_per_minute: int | None = Field(None, ge=0, le=1_000_000, description="0: no limit. Null: the setting's.")
    concurrent_answers: int | None = Field(None, ge=0, le=1_000_000, description="0: no limit. Null: the setting's.")
    client: str = Field("", description="The kind of client, e.g. chatbox or openwebui: decides how citations come.")
    reasoning_format: str = Field("", description="reasoning_content (the default), reasoning, think_tags or none.")
    sources_list: bool | None = Field(
        None, description="A Markdown list of sources behind answers. Null: the client's."
    )


class Key(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    knowledge_bases: list[str] | None
    requests_per_minute: int | None
    concurrent_answers: int | None
    created: str
    last_used: str | None
    revoked: str | None
    client: str = ""
    reasoning_format: str = ""
    sources_list: bool | None = None


class KeyCreated(Key):
    """A new key with its secret, shown this once."""

    key: str


class Keys(BaseModel):
    """Keys, oldest first."""

    keys: list[Key]
