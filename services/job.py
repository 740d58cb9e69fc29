"""Jobs as records: what they are called, their states, and how a workflow of the job library is shown as one."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pipelines.errors import Conflict, RagError
from pipelines.types import JobState
from services.store.records import Document

if TYPE_CHECKING:
    from dbos import WorkflowStatus

APPLICATION = "deepwell"
#: of the workflows' code: raised when their steps change; a worker starts jobs of older versions anew
VERSION = "jobs-2"
INGEST_QUEUE = "ingest"
#: apart, so that a deletion does not wait behind a thousand uploads
DELETE_QUEUE = "delete"
#: may take hours, one knowledge base after another
REEMBED_QUEUE = "reembed"
#: apart, so that a source that answers slowly keeps nobody waiting
SYNC_QUEUE = "sync"
INGEST, DELETE, DELETE_KNOWLEDGE_BASE = "ingest_document", "delete_document", "delete_knowledge_base"
REEMBED = "reembed_knowledge_base"
SYNC, REMOVE_SOURCE = "sync_source", "remove_source"
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "dead", "cancelled")

_KINDS: dict[str, Literal["ingest", "delete", "reembed"]] = {INGEST: "ingest", REEMBED: "reembed"}
_STATES: dict[str, JobState] = {
    "DELAYED": "queued",
    "ENQUEUED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "dead",
}


class JobDead(RagError):
    """The job was begun too often without getting anywhere: it crashes the worker."""

    code = "dead"


class Superseded(Conflict):
    """A newer job, a cancel or a deletion took the document over."""

    code = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work, and how far it is."""

    id: str
    kind: Literal["ingest", "delete", "reembed"]
    knowledge_base_id: str
    #: None for a job on a whole knowledge base
    document_id: str | None
    #: name of the document, "" if it is gone
    document: str
    state: JobState
    error: str = ""
    step: str = ""
    #: of an ingestion pages of the step, of a re-embedding passages
    pages_done: int = 0
    pages_total: int = 0
    #: seconds until it ends, as far as one can tell
    eta: float | None = None
    #: seconds since 1970
    created: float = 0.0
    updated: float = 0.0
    #: of a deletion: what each store had "before" and "after" it, see services.receipts
    receipt: dict[str, dict[str, int]] = field(default_factory=dict)
    #: what else there is to say about the result, in words
    notes: tuple[str, ...] = ()

    @property
    def removed(self) -> dict[str, int]:
        """Of a deletion: how much less each store has."""
        return {store: count["before"] - count["after"] for store, count in self.receipt.items()}


def state_of(status: str, error: object = None) -> JobState:
    """The state users see for the status and the error of a workflow."""
    if status == "ERROR" and isinstance(error, JobDead):
        return "dead"
    if status == "ERROR" and isinstance(error, Superseded):
        return "cancelled"
    return _STATES[status]


def subject(status: "WorkflowStatus") -> str:
    """The id of the document or knowledge base that a job works on: its first argument."""
    return str(status.input["args"][0]) if status.input else ""


def of_document(document: Document) -> Job:
    """The ingestion that a document names."""
    return _with_progress(
        Job(
            id=document.job_id,
            kind="ingest",
            knowledge_base_id=document.knowledge_base_id,
            document_id=document.id,
            document=document.name,
            state=document.state,
            created=document.updated,
        ),
        document,
    )


def job_of(status: "WorkflowStatus", document: Document | None) -> Job:
    """A workflow and the document it works on, if that is still there, as a job."""
    result = status.output if isinstance(status.output, dict) else {}
    of_base = status.name in (DELETE_KNOWLEDGE_BASE, REEMBED)
    progress = status.attributes or {}
    job = Job(
        id=status.workflow_id,
        kind=_KINDS.get(status.name, "delete"),
        knowledge_base_id=subject(status) if of_base else "",
        document_id=None if of_base else subject(status),
        document=document.name if document else "",
        state=state_of(status.status, status.error),
        error=str(status.error) if status.error else "",
        pages_done=progress.get("done", 0),
        pages_total=progress.get("total", 0),
        created=(status.created_at or 0) / 1000,
        updated=(status.updated_at or 0) / 1000,
        receipt=result.get("receipt", {}),
        notes=tuple(result.get("notes", ())),
    )
    return _with_progress(job, document) if document else job


def _with_progress(job: Job, document: Document) -> Job:
    job = replace(job, knowledge_base_id=document.knowledge_base_id)
    if job.kind == "delete" or document.job_id != job.id or document.deleted:
        return job
    return replace(
        job,
        state=document.state,
        error=document.error,
        step=document.step,
        pages_done=document.pages_done,
        pages_total=document.pages_total,
        eta=document.eta,
        updated=max(job.updated, document.updated),
    )
