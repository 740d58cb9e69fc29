"""Pages of a document as a reader sees them: the picture, and where the words stand on it."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as PathParameter
from fastapi.responses import Response

from pipelines.errors import LockedDocument, NotFound, UnreadableDocument, UnsupportedDocument
from services import notes
from services.api.deps import Parts
from services.api.documents import find
from services.api.schemas import DocumentNotes, DocumentPage
from services.auth import Retriever
from services.build import Deepwell
from services.errors import responses
from services.parsing import Parser
from services.store.records import Document

router = APIRouter(prefix="/v1/documents/{document}/pages", tags=["documents"])
Number = Annotated[int, PathParameter(ge=1, le=1_000_000)]

#: pages drawn at once, each in a process of its own that ends with it
_drawing = asyncio.Semaphore(2)
_SECONDS, _MEMORY_MB = 30.0, 1024


@router.get("", responses=responses(NotFound))
async def get_notes(document: str, caller: Retriever, deepwell: Parts) -> DocumentNotes:
    """What parsing found out: what was left out, repaired or guessed, and which pages OCR read."""
    found = await find(deepwell, caller, document)
    kept = await asyncio.to_thread(notes.read, deepwell.settings.data_dir, found.sha256)
    return DocumentNotes(remarks=list(kept.remarks), ocr_pages=sorted(kept.layouts))


@router.get("/{number}", responses=responses(NotFound, LockedDocument, UnreadableDocument, UnsupportedDocument))
async def get_page(document: str, number: Number, caller: Retriever, deepwell: Parts) -> DocumentPage:
    """Words of a page with their boxes, to mark a citation on the page's image. PDF files and pictures have these."""
    found = await find(deepwell, caller, document)
    kept = await asyncio.to_thread(notes.read, deepwell.settings.data_dir, found.sha256)
    layout = kept.layouts.get(number)
    if layout is None:
        layout, _ = await _drawn(deepwell, found, number)
    return DocumentPage(number=number, **layout)


@router.get(
    "/{number}/image",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The page."},
        **responses(NotFound, LockedDocument, UnreadableDocument, UnsupportedDocument),
    },
)
async def get_page_image(document: str, number: Number, caller: Retriever, deepwell: Parts) -> Response:
    """A page as PNG."""
    found = await find(deepwell, caller, document)
    _, picture = await _drawn(deepwell, found, number)
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def _drawn(deepwell: Deepwell, document: Document, number: int) -> tuple[dict[str, Any], bytes]:
    blob = deepwell.settings.data_dir / "blobs" / document.sha256
    with TemporaryDirectory(prefix="deepwell-") as folder:
        out = Path(folder, "page.png")
        async with _drawing, Parser(timeout=_SECONDS, memory_mb=_MEMORY_MB) as parser:
            await parser.draw(blob, out, number, name=document.name)
        return await asyncio.to_thread(_read, out)


def _read(out: Path) -> tuple[dict[str, Any], bytes]:
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8")), out.read_bytes()
