"""What a model server's refusal means, in our error tree, with the cause and the fix."""

from collections.abc import Mapping
from typing import Any

import orjson

from pipelines.errors import BadRequest, ModelUnavailable, RagError, TooManyRequests


def refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    url: str,
    model: str,
    names: str = "",
    section: str = "CHAT",
) -> RagError:
    """The error for an answer that is not 2xx. `names` lists the models there are, if somebody asked; `section` is the
    one of the settings that name the server.
    """
    said = message(body)
    if status in {401, 403}:
        return ModelUnavailable(
            f"the model server at {url} refused the key ({status}: {said}). Set DEEPWELL_{section}__API_KEY "
            'to one it knows; a token that must not be sent as Bearer is written with its scheme, like "Token abc"'
        )
    if status == 404:
        there = f" It has: {names}." if names else ""
        return ModelUnavailable(
            f"the model server at {url} does not know the model {model!r} or the path ({said}).{there} "
            f"Correct DEEPWELL_{section}__MODEL or DEEPWELL_{section}__URL"
        )
    if status == 429:
        return TooManyRequests(f"the model server at {url} is at its limit ({said})", retry_after(headers))
    if status in {400, 413, 422}:
        return BadRequest(f"the model server at {url} refused the request ({status}: {said})")
    if status >= 500:
        return ModelUnavailable(f"the model server at {url} failed ({status}: {said}). Look into its log")
    return ModelUnavailable(f"the model server at {url} answered {status}, which no model server should ({said})")


def message(body: bytes) -> str:
    """The words of an error body in any of the usual shapes, on one line, at most 300 characters."""
    text = body[:2000].decode("utf-8", "replace")
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    words = found if isinstance(found, str) else orjson.dumps(found).decode()
    return " ".join(words.split())[:300] or "no reason given"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, from `retry-after-ms` or `Retry-After`; 1 if there is neither or it is a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return 1.0
