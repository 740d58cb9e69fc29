"""How a passage is called and addressed in the answers of every protocol."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.types import Citation, Hit


def title(document: str, page: int | None) -> str:
    """What a source list calls a passage."""
    return f"{document} p.{page}" if page else document


def spans(answer: str, citations: tuple[Citation, ...], urls: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """`url`, `title`, `start_index`, `end_index` of each citation; the indices are those of its first `[n]`."""
    for citation in citations:
        marker = f"[{citation.n}]"
        start = max(answer.find(marker), 0)
        yield {
            "url": urls.get(citation.chunk_id, ""),
            "title": title(citation.document, citation.page),
            "start_index": start,
            "end_index": start + len(marker),
        }


def search_results(hits: tuple[Hit, ...], urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """The sources as LobeChat and others read them, with our own fields beside."""
    return [
        {
            "title": title(hit.chunk.document, hit.chunk.page),
            "url": urls.get(hit.chunk.id, ""),
            "snippet": hit.chunk.text[:300],
            "document_id": hit.chunk.document_id,
            "chunk_id": hit.chunk.id,
            "page": hit.chunk.page,
            "score": round(hit.score, 4),
        }
        for hit in hits
    ]
