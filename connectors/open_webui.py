"""Frames that Open WebUI reads beside OpenAI's: a source as a card with its passage, and what is being done.

Source: open_webui/utils/middleware.py, root field `event` of a chunk. The frames have `choices`, so that every other
client passes over them.
"""

from collections.abc import Mapping
from typing import Any

from connectors.citing import title
from pipelines.language import Language
from pipelines.types import Hit

SEARCHING: dict[Language, str] = {
    "en": "Searching the knowledge base",
    "ja": "ナレッジベースを検索しています",
    "zh": "正在检索知识库",
}
FOUND: dict[Language, str] = {
    "en": "{0} passages found",
    "ja": "{0} 件の記述が見つかりました",
    "zh": "找到 {0} 条相关内容",
}


def status(description: str, done: bool) -> dict[str, Any]:
    """A line of progress above the answer."""
    return {"type": "status", "data": {"description": description, "done": done}}


def source(hit: Hit, urls: Mapping[str, str]) -> dict[str, Any]:
    """A passage as a card. Its `source` is the address, so that the annotation of the same one joins it."""
    name, url = title(hit.chunk.document, hit.chunk.page), urls.get(hit.chunk.id, "")
    metadata = {"source": url, "name": name, "page": hit.chunk.page, "document_id": hit.chunk.document_id}
    data = {
        "source": {"id": url, "name": name, "url": url},
        "document": [hit.chunk.text],
        "metadata": [metadata],
        "distances": [round(hit.score, 4)],
    }
    return {"type": "source", "data": data}
