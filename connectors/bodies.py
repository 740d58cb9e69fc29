"""Request bodies of the protocols we serve, read as leniently as their clients need."""

import base64
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from pipelines.errors import BadRequest
from pipelines.rag import Vectors
from pipelines.types import Role

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
#: kinds of content parts that only a model with eyes or ears can use
UNSUPPORTED_PARTS = frozenset({"image_url", "input_image", "image", "input_audio", "video_url", "input_video"})
#: texts in one request
MOST_TEXTS = 2048


def json_object(body: bytes, fields: str) -> dict[str, Any]:
    """The body as a JSON object; `fields` says what belongs into it. Raises BadRequest."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadRequest(f"the body must be a JSON object with {fields}")
    return data


def role_of(message: Mapping[str, Any]) -> Role | None:
    """A message's role in our words; None for one that nobody knows."""
    role = message.get("role")
    return ROLES.get(role) if isinstance(role, str) else None


def content_text(content: object, where: str) -> str:
    """The text of a message's content: null, a string, or parts. Raises BadRequest for images and the like."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest(f"{where} must be null, a string or a list of parts")
    texts = []
    for part in content:
        if isinstance(part, dict) and str(part.get("type")) in UNSUPPORTED_PARTS:
            raise BadRequest(f"{part['type']} is not supported by this model")
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            texts.append(text)
    return "\n".join(texts)


def text_list(value: object, field: str) -> list[str]:
    """One text or several as a list. Raises BadRequest, with a word about token arrays, which some clients send."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise BadRequest(f"`{field}` must be a string or a list of strings")
    if any(isinstance(text, int | list) for text in texts):
        raise BadRequest(
            f"`{field}` holds token numbers, which belong to another model's vocabulary: send the text itself "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"`{field}` must be a string or a list of strings")
    if len(texts) > MOST_TEXTS:
        raise BadRequest(f"`{field}` has {len(texts)} texts; at most {MOST_TEXTS} go into one request")
    return texts


def whole(value: object) -> int | None:
    """A number of at least 1; None for everything else, null and 0 among it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def number(value: object) -> float | None:
    """A number; None for everything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def words_of(value: object) -> tuple[str, ...]:
    """One string or a list of them (such as `stop`), everything else left out."""
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def ignored(data: Mapping[str, Any], guards_sampling: bool, effective: Container[str] = ()) -> list[str]:
    """Names of parameters that were sent and have no effect, for the header X-Ignored-Params.

    `guards_sampling`: the family in force keeps its own temperature and top-p (see pipelines.profiles). `effective`
    are names that are not passed on everywhere, but here.
    """
    names = [
        name
        for name, value in data.items()
        if name in _NEUTRAL and name not in effective and value not in (None, *_NEUTRAL[name])
    ]
    if guards_sampling and data.get("free_sampling") is not True:
        names += [name for name in ("temperature", "top_p") if data.get(name) is not None]
    return sorted(names)


#: Ollama's options of loading and of samplers; the window is Deepwell's own setting
OLLAMA_OPTIONS = (
    "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "typical_p", "repeat_last_n",
    "repeat_penalty", "tfs_z", "mirostat", "mirostat_eta", "mirostat_tau", "penalize_newline",
)  # fmt: skip
#: parameters of the protocols that Deepwell does not pass on, with the values at which that makes no difference
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "text": ({}, {"format": {"type": "text"}}),
    "truncation": ("disabled",),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
    "format": ("",),
    "keep_alive": (),
    "raw": (False,),
    "template": ("",),
    "context": ([],),
    **dict.fromkeys(OLLAMA_OPTIONS, ()),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
}


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` numbers of each vector, at length 1 again. Raises BadRequest for more than there are.

    OpenAI defines `dimensions` this way; only models trained for it (Matryoshka) keep their quality.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise BadRequest(f"`dimensions` is {dimensions}, but the vectors of this model have {vectors.shape[1]}")
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.where(norms == 0, 1, norms), np.float32)


def base64_floats(vector: Vectors) -> str:
    """Little-endian float32, in base64: what openai-js and openai-python ask for by default."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def dumps(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """JSON; arrays of numpy as lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
