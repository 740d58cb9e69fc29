"""Request bodies for the OpenAPI document, where a route reads its body itself, as leniently as clients need it."""

from typing import Any

Schema = dict[str, Any]


def takes(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> dict[str, Any]:
    """`openapi_extra` of a route: the fields that matter. Every other field is taken and ignored."""
    schema = {"type": "object", "required": list(required), "properties": required | (optional or {})}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def text(description: str = "") -> Schema:
    """A string."""
    return {"type": "string", "description": description}


def flag(description: str = "") -> Schema:
    """A boolean."""
    return {"type": "boolean", "description": description}


def count(description: str = "") -> Schema:
    """A whole number of at least 1."""
    return {"type": "integer", "minimum": 1, "description": description}


def some(description: str = "") -> Schema:
    """An object."""
    return {"type": "object", "description": description}


def texts(description: str = "") -> Schema:
    """A string, or a list of strings."""
    items = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    return {"anyOf": [{"type": "string"}, items], "description": description}


def messages(description: str = "Turns with `role` and `content`: null, a string, or parts with `text`.") -> Schema:
    """A conversation."""
    roles = ["system", "developer", "user", "assistant", "tool"]
    content = {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object"}}]}
    turn = {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"type": "string", "enum": roles}, "content": content},
    }
    return {"type": "array", "minItems": 1, "items": turn, "description": description}


def passages(description: str = "Strings, or objects with `text`.") -> Schema:
    """Texts to score."""
    item = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["text"]}]}
    return {"type": "array", "items": item, "description": description}


def tools(description: str = "Tools that the model may call, where it can; the client runs them.") -> Schema:
    """Definitions of tools."""
    return {"type": "array", "items": {"type": "object"}, "description": description}


MODEL = text("An id of `GET /v1/models`.")
STREAM = flag("Send the answer while it is written.")
EMBEDDER = text("Id of the embedding model, or deepwell-embedding.")
