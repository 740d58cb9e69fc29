"""Every error Deepwell raises on purpose.

    RagError 500
    ├── BadRequest 400            the caller asked for something that makes no sense
    ├── Unauthorized 401          no key, or a key nobody knows
    ├── Forbidden 403             a known key without the right to do this
    ├── NotFound 404
    │   └── UnknownModel          no model has this id (model_not_found, as OpenAI has it)
    ├── Conflict 409              exists already, in use, or the embedding does not fit the index
    ├── TooLarge 413
    ├── UnsupportedDocument 415   no loader for this kind of file
    ├── UnreadableDocument 422    the right kind, but damaged, empty or locked
    │   └── LockedDocument        its password is missing or wrong (password_required)
    ├── TooManyRequests 429 retryable
    ├── StorageFull 507           the disk is full
    └── Unavailable 503 retryable
        ├── ModelUnavailable      model or embedding server
        ├── IndexUnavailable      vector database or full-text index
        └── SourceUnavailable     where documents come from

A message names the cause and the fix, in words for the person who reads it. `status` is what HTTP answers,
`retryable` is what a job does: True means the step is tried again, False means the job fails at once.
"""


class RagError(Exception):
    """Something Deepwell could not do. `str(error)` is shown to users as it is."""

    status: int = 500
    retryable: bool = False
    code: str = "internal_error"


class BadRequest(RagError):
    """The request itself is wrong."""

    status, code = 400, "bad_request"


class Unauthorized(RagError):
    """No key was sent, or nobody knows it."""

    status, code = 401, "invalid_api_key"


class Forbidden(RagError):
    """The key is known but may not do this."""

    status, code = 403, "forbidden"


class NotFound(RagError):
    """There is no such thing, or the caller may not know of it."""

    status, code = 404, "not_found"


class UnknownModel(NotFound):
    """No model has this id; the message names those there are."""

    code = "model_not_found"


class Conflict(RagError):
    """The state of things forbids it."""

    status, code = 409, "conflict"


class TooLarge(RagError):
    """More bytes than the limit in force."""

    status, code = 413, "too_large"


class UnsupportedDocument(RagError):
    """No loader reads this kind of file."""

    status, code = 415, "unsupported_document"


class UnreadableDocument(RagError):
    """The file is damaged, empty, locked, or holds no text."""

    status, code = 422, "unreadable_document"


class LockedDocument(UnreadableDocument):
    """The file opens with a password only, and none or a wrong one was given."""

    code = "password_required"


class TooManyRequests(RagError):
    """A limit of the key or of the queue is reached; `retry_after` is in seconds."""

    status, retryable, code = 429, True, "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageFull(RagError):
    """The disk is full."""

    status, code = 507, "storage_full"


class Unavailable(RagError):
    """A part that Deepwell needs does not answer."""

    status, retryable, code = 503, True, "unavailable"


class ModelUnavailable(Unavailable):
    """The model or embedding server does not answer."""

    code = "model_unavailable"


class IndexUnavailable(Unavailable):
    """The vector database or the full-text index does not answer."""

    code = "index_unavailable"


class SourceUnavailable(Unavailable):
    """The place a document comes from does not answer."""

    code = "source_unavailable"
