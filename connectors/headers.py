"""Further headers of a server, as an operator writes them into one setting."""

import re
from typing import Any

import orjson

from pipelines.errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: written by the HTTP client itself
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


def read_headers(text: str, setting: str) -> dict[str, str]:
    """`Name: value; Name: value` (or one a line), or a JSON object of strings. Raises BadRequest.

    The error names the setting, and never a value: it may be a secret.
    """
    text = text.strip()
    pairs = _from_json(text, setting) if text.startswith("{") else _from_lines(text, setting)
    for name, value in pairs.items():
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise BadRequest(f"setting {setting}: {name[:40]!r} is no header that can be set")
        if not value.isprintable() or not value.isascii():
            raise BadRequest(f"setting {setting}: the value of {name} has characters that no header may have")
    return pairs


def _from_json(text: str, setting: str) -> dict[str, str]:
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest(f"setting {setting} begins like JSON and is none") from None
    if not all(isinstance(value, str) for value in found.values()):
        raise BadRequest(f"setting {setting} must be a JSON object whose values are strings")
    return dict(found)


def _from_lines(text: str, setting: str) -> dict[str, str]:
    pairs = {}
    for n, part in enumerate(filter(None, (part.strip() for part in re.split(r"[;\n]", text))), 1):
        name, colon, value = part.partition(":")
        if not colon or not name.strip():
            raise BadRequest(f"setting {setting}: part {n} is no `Name: value`")
        pairs[name.strip()] = value.strip()
    return pairs
