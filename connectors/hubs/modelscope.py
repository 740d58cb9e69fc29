"""ModelScope: finds a file of a model repository, with its size and SHA-256.

GET /api/v1/models/REPO/repo/files lists `Path`, `Size`, `Sha256`; the bytes are at /models/REPO/resolve/REVISION/FILE.
A token goes as the cookie `m_session_id` (github.com/modelscope/modelscope, hub/api.py and hub/file_download.py).
"""

from typing import Any
from urllib.parse import quote

import httpx

from connectors.hubs import RemoteFile, refusal
from pipelines.errors import NotFound, SourceUnavailable

HOST = "https://www.modelscope.cn"
REVISION = "master"


async def resolve(
    client: httpx.AsyncClient, repository: str, file: str, *, mirror: str = "", token: str = ""
) -> RemoteFile:
    """Find a file. Raises Forbidden (gated), NotFound (with the GGUF files there are) or SourceUnavailable."""
    base, page = (mirror or HOST).rstrip("/"), f"{HOST}/models/{repository}"
    headers = {"Cookie": f"m_session_id={token}"} if token else {}
    listing = f"{base}/api/v1/models/{repository}/repo/files"
    query = {"Revision": REVISION, "Recursive": "true"}
    try:
        response = await client.get(listing, params=query, headers=headers, follow_redirects=True)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise SourceUnavailable(
            f"{base} cannot be reached ({error or type(error).__name__}): set DEEPWELL_HUB__MIRROR to a mirror, "
            "DEEPWELL_HUB__NAME=huggingface, or import a file (docs/guides/models.md)"
        ) from None
    if response.status_code != 200:
        raise refusal(response.status_code, f"{repository}/{file}", page)
    files = _files(response, repository)
    if file not in files:
        there = ", ".join(sorted(name for name in files if name.endswith(".gguf"))) or "none"
        raise NotFound(f"{repository} on the hub has no file {file}; its GGUF files are: {there}")
    return RemoteFile(
        name=f"{repository}/{file}",
        url=f"{base}/models/{repository}/resolve/{REVISION}/{quote(file)}",
        size=int(files[file]["Size"]) if files[file].get("Size") else None,
        sha256=str(files[file]["Sha256"]).lower() if files[file].get("Sha256") else None,
        page=page,
        headers=headers,
    )


def _files(response: httpx.Response, repository: str) -> dict[str, dict[str, Any]]:
    try:
        answer = response.json()
        if not answer["Success"]:
            raise SourceUnavailable(f"ModelScope refused the file list of {repository}: {answer.get('Message')}")
        return {str(entry["Path"]): entry for entry in answer["Data"]["Files"] if entry.get("Type") != "tree"}
    except (ValueError, KeyError, TypeError):
        raise SourceUnavailable(
            f"{response.url} did not answer with a ModelScope file list: check DEEPWELL_HUB__MIRROR"
        ) from None
