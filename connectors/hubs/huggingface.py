"""Hugging Face: finds a file of a model repository, with its size and SHA-256.

HEAD /REPO/resolve/REVISION/FILE answers with X-Linked-Size and X-Linked-Etag (for a file in LFS or Xet the SHA-256) and
redirects to a content host (github.com/huggingface/huggingface_hub, file_download.py, get_hf_file_metadata); where a
mirror leaves these headers out, GET /api/models/REPO/tree/REVISION names them (`lfs.oid`).
"""

import re
from typing import Any
from urllib.parse import quote, urljoin

import httpx

from connectors.hubs import RemoteFile, refusal
from pipelines.errors import NotFound, SourceUnavailable

HOST = "https://huggingface.co"
REVISION = "main"


async def resolve(
    client: httpx.AsyncClient, repository: str, file: str, *, mirror: str = "", token: str = ""
) -> RemoteFile:
    """Find a file. Raises Forbidden (gated), NotFound (with the GGUF files there are) or SourceUnavailable."""
    base, page = (mirror or HOST).rstrip("/"), f"{HOST}/{repository}"
    url = f"{base}/{repository}/resolve/{REVISION}/{quote(file)}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = await _head(client, url, headers)
        status = response.status_code
        size, sha256 = _linked(response)
        if status == 404 or size is None or sha256 is None:
            listing = await _tree(client, base, repository, headers)
            size, sha256 = listing.get(file, (size, sha256))
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise SourceUnavailable(
            f"{base} cannot be reached ({error or type(error).__name__}): set DEEPWELL_HUB__MIRROR to a mirror, "
            "DEEPWELL_HUB__NAME=modelscope, or import a file (docs/guides/models.md)"
        ) from None
    if status == 404 and listing:
        there = ", ".join(sorted(name for name in listing if name.endswith(".gguf"))) or "none"
        raise NotFound(f"{repository} on the hub has no file {file}; its GGUF files are: {there}")
    if status >= 400:
        raise refusal(status, f"{repository}/{file}", page)
    return RemoteFile(name=f"{repository}/{file}", url=url, size=size, sha256=sha256, page=page, headers=headers)


async def _head(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
    """HEAD, following redirects until an answer carries the linked headers; the token stays on its host."""
    origin = httpx.URL(url).host
    for _ in range(6):
        allowed = headers if httpx.URL(url).host == origin else {}
        response = await client.head(url, headers=allowed, follow_redirects=False)
        if not response.is_redirect or "X-Linked-Etag" in response.headers:
            return response
        url = urljoin(url, response.headers["Location"])
    raise SourceUnavailable(f"{url} redirects in a circle: check DEEPWELL_HUB__MIRROR")


def _linked(response: httpx.Response) -> tuple[int | None, str | None]:
    size = response.headers.get("X-Linked-Size") or (
        None if response.is_redirect else response.headers.get("Content-Length")
    )
    etag = (response.headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
    digest = etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None
    return (int(size) if size and size.isdigit() else None), digest


async def _tree(
    client: httpx.AsyncClient, base: str, repository: str, headers: dict[str, str]
) -> dict[str, tuple[int | None, str | None]]:
    """Size and SHA-256 of every file of the repository; empty where the hub gives no listing."""
    url: str | None = f"{base}/api/models/{repository}/tree/{REVISION}?recursive=true"
    files: dict[str, tuple[int | None, str | None]] = {}
    while url:
        response = await client.get(url, headers=headers, follow_redirects=True)
        if response.status_code != 200 or "json" not in response.headers.get("Content-Type", ""):
            return files
        entries: list[dict[str, Any]] = response.json()
        for entry in entries:
            if entry.get("type") == "file":
                lfs = entry.get("lfs") or {}
                files[str(entry["path"])] = (lfs.get("size") or entry.get("size"), lfs.get("oid"))
        url = response.links.get("next", {}).get("url")
    return files
