"""How a passage is called and addressed in the answers of every protocol."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.language import Language
from pipelines.types import Citation, Hit

#: leads the list of sources behind an answer
HEADINGS: dict[Language, str] = {"en": "Sources", "ja": "出典", "zh": "来源"}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|])")
_LIST = re.compile(rf"\n\n---\n\*\*(?:{'|'.join(HEADINGS.values())})\*\*\n\n(?:- \[\d+\] [^\n]*\n?)+\s*\Z")


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


def sources_list(citations: Sequence[Citation], urls: Mapping[str, str], language: Language) -> str:
    """The sources cited as a Markdown list, for clients that show nothing else."""
    lines = [
        f"- [{citation.n}] [{_plain(title(citation.document, citation.page))}]({urls.get(citation.chunk_id, '')})"
        for citation in citations
    ]
    return f"\n\n---\n**{HEADINGS[language]}**\n\n" + "\n".join(lines) + "\n"


def without_sources_list(answer: str) -> str:
    """An answer as it was before the list: a client sends it back in its history, and a model would write it again."""
    return _LIST.sub("", answer)


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
