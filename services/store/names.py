"""What knowledge bases and documents may be called, and the ids made from names."""

import hashlib
import secrets
import unicodedata

from pipelines.errors import BadRequest

MAX_KNOWLEDGE_BASE_NAME = 64
MAX_DOCUMENT_NAME = 1000


def knowledge_base_name(name: str) -> str:
    """The name in NFC, if it may be one: it becomes a model id and a part of addresses. Raises BadRequest."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_KNOWLEDGE_BASE_NAME:
        raise BadRequest(f"a knowledge base's name has 1 to {MAX_KNOWLEDGE_BASE_NAME} characters, not {len(name)}")
    wrong = sorted({character for character in name if not _allowed(character)})
    if wrong:
        raise BadRequest(
            f"a knowledge base's name has letters and digits of any script, - _ and . ; {name!r} has {wrong[0]!r}"
        )
    if not any(character.isalnum() for character in name):
        raise BadRequest(f"a knowledge base's name has a letter or a digit; {name!r} has none")
    return name


def _allowed(character: str) -> bool:
    return character in "-_." or unicodedata.category(character)[0] in "LNM"


def document_name(name: str) -> str:
    """The name in NFC, if it may be one: any text of one line; it is never used as a path. Raises BadRequest."""
    name = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(name) <= MAX_DOCUMENT_NAME:
        raise BadRequest(f"a document's name has 1 to {MAX_DOCUMENT_NAME} characters, not {len(name)}")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise BadRequest(f"a document's name has no control characters and no line breaks: {name!r}")
    return name


def document_id(knowledge_base_id: str, name: str) -> str:
    """The same name in the same knowledge base is the same document, whatever its content."""
    return "doc-" + hashlib.sha256(f"{knowledge_base_id}\0{name}".encode()).hexdigest()[:20]


def new_id(prefix: str) -> str:
    """A fresh random id, e.g. "kb-3f9c1a…"."""
    return f"{prefix}-{secrets.token_hex(8)}"


def new_job_id(kind: str, document: str) -> str:
    """A fresh id for a job on a document, e.g. "ingest-doc-…-9f31c2d4".

    Never counted: a document that was removed and comes back must not meet its old jobs.
    """
    return f"{kind}-{document}-{secrets.token_hex(4)}"
