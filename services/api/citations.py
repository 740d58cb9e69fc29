"""The page that a citation's link opens: the passage in its document, the quote marked, its neighbours."""

import base64
import hashlib
from html import escape
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import HTMLResponse, JSONResponse, Response

from connectors.citing import title
from pipelines.errors import NotFound
from pipelines.language import Language
from pipelines.types import Chunk
from services.api.deps import Parts
from services.api.schemas import CitedPassage
from services.build import Deepwell
from services.citations import Place
from services.errors import error_body, responses

router = APIRouter(tags=["citations"])
WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "page": "Page {0}",
        "passage": "Cited passage",
        "before": "Text before it",
        "after": "Text after it",
        "gone": "This passage cannot be shown",
        "why": "The link is not valid or too old, or the document was changed or removed since it was cited.",
    },
    "ja": {
        "page": "{0} ページ",
        "passage": "引用された箇所",
        "before": "前の文章",
        "after": "後の文章",
        "gone": "この箇所は表示できません",
        "why": "リンクが無効か期限切れ、または引用後に文書が変更・削除されました。",
    },
    "zh": {
        "page": "第 {0} 页",
        "passage": "引用的段落",
        "before": "上文",
        "after": "下文",
        "gone": "无法显示该段落",
        "why": "链接无效或已过期，或者文档在引用之后被修改或删除。",
    },
}
STYLE = """
body{font:1rem/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.3rem;margin:0;overflow-wrap:anywhere}
.place{color:#555;margin:.2rem 0 1.5rem;overflow-wrap:anywhere}
section{white-space:pre-wrap;overflow-wrap:anywhere;margin:1rem 0}
.near{color:#666}
.passage{border-left:.25rem solid #2563eb;padding-left:1rem}
mark{background:#fde68a;color:inherit}
@media(prefers-color-scheme:dark){body{color:#e5e5e5;background:#161616}.place,.near{color:#9a9a9a}mark{background:#854d0e}}
"""
#: no script, no image, no frame, nothing from anywhere: a passage may hold whatever somebody wrote into a document
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
    "Vary": "Accept, Accept-Language",
}


@router.api_route("/c/{token}", methods=["GET", "HEAD"], include_in_schema=False)
@router.get(
    "/c/{token}",
    response_model=CitedPassage,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **responses(NotFound)},
)
async def open_citation(
    token: str,
    deepwell: Parts,
    accept: Annotated[str, Header()] = "",
    accept_language: Annotated[str, Header()] = "",
) -> Response:
    """The cited passage, as a page, or as JSON for `Accept: application/json`. The signature in the link is the key."""
    language = preferred(accept_language)
    as_json = "application/json" in accept and "text/html" not in accept
    try:
        place = deepwell.signer.read(token)
        found = await cited(deepwell, place)
    except NotFound as error:
        if as_json:
            return JSONResponse(error_body(error), status_code=404, headers=HEADERS)
        return HTMLResponse(missing_page(language), status_code=404, headers=HEADERS)
    if as_json:
        return JSONResponse(found.model_dump(), headers=HEADERS)
    return HTMLResponse(page(found, place, language), headers=HEADERS)


async def cited(deepwell: Deepwell, place: Place) -> CitedPassage:
    """The passage with its neighbours. Raises NotFound."""
    chunks = await deepwell.store.passages.with_neighbours(place.chunk_id)
    at = next((i for i, chunk in enumerate(chunks) if chunk.id == place.chunk_id), -1)
    if at < 0:
        raise NotFound("the passage is gone: its document was changed or removed since it was cited")
    chunk = chunks[at]
    return CitedPassage(
        document=chunk.document,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        page=chunk.page,
        heading=chunk.heading,
        quote=chunk.text[place.begin : place.end],
        text=chunk.text,
        before=before(chunks[at - 1], chunk) if at else "",
        after=after(chunk, chunks[at + 1]) if at + 1 < len(chunks) else "",
    )


def before(neighbour: Chunk, chunk: Chunk) -> str:
    """The text of the passage before, without what the two share."""
    shared = max(0, neighbour.end - chunk.start)
    return neighbour.text[: max(0, len(neighbour.text) - shared)]


def after(chunk: Chunk, neighbour: Chunk) -> str:
    """The text of the passage after, without what the two share."""
    return neighbour.text[max(0, chunk.end - neighbour.start) :]


def preferred(accept_language: str) -> Language:
    """The first language of an Accept-Language header that we have, by its weights; English else."""
    wanted = []
    for i, part in enumerate(accept_language.split(",")[:20]):
        name, _, weight = part.partition(";q=")
        try:
            wanted.append((-float(weight or 1), i, name.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    for _, _, name in sorted(wanted):
        if name in WORDS:
            return name
    return "en"


def page(found: CitedPassage, place: Place, language: Language) -> str:
    """The passage as HTML."""
    words = WORDS[language]
    text = found.text
    marked = escape(text)
    if place.begin < place.end <= len(text):
        quote = f"<mark>{escape(text[place.begin : place.end])}</mark>"
        marked = escape(text[: place.begin]) + quote + escape(text[place.end :])
    number = words["page"].format(found.page) if found.page is not None else ""
    where = " · ".join(part for part in (number, found.heading) if part)
    parts = [
        f"<h1>{escape(found.document)}</h1>",
        f'<p class="place">{escape(where)}</p>' if where else "",
        _section("near", words["before"], escape(found.before)),
        _section("passage", words["passage"], marked),
        _section("near", words["after"], escape(found.after)),
    ]
    return _document(language, title(found.document, found.page), "\n".join(part for part in parts if part))


def missing_page(language: Language) -> str:
    """What is shown where there is nothing to show."""
    words = WORDS[language]
    return _document(language, words["gone"], f"<h1>{escape(words['gone'])}</h1>\n<p>{escape(words['why'])}</p>")


def _section(kind: str, label: str, inner: str) -> str:
    return f'<section class="{kind}" aria-label="{escape(label)}">{inner}</section>' if inner.strip() else ""


def _document(language: Language, name: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
