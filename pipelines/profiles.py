"""Model profiles: what a model family needs to answer well, as data (profiles.toml), chosen by the model's name.

A profile says how to sample, where instructions go, whether the output begins inside the thinking, what of the
history may be sent back, and which request field or start flag each engine wants. Each entry names its sources.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.errors import BadRequest
from pipelines.language import Language

_FILE_ENDING = re.compile(
    r"(?:-\d{5}-of-\d{5})?\.gguf$|[-.](?:i?q\d[a-z0-9_]*|iq\d_\w+|bf16|f16|fp16|f32|fp8|awq|gptq[\w-]*|gguf|mlx|latest)$"
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StartFlags(_Record):
    """Flags an engine of these versions is started with (PEP 440 specifiers)."""

    versions: str
    flags: tuple[str, ...]


class EngineRule(_Record):
    """How one engine spells a family's thinking."""

    #: field of the answer that holds thinking when the engine separates it
    field: str = "reasoning_content"
    #: fields merged into a request to switch thinking on or off; empty where there is no switch
    thinking_on: Mapping[str, Any] = {}
    thinking_off: Mapping[str, Any] = {}
    #: request field for a limit of thinking tokens, "" if the engine has none
    budget: str = ""
    #: request field for an effort word, "" if the engine has none
    effort: str = ""
    flags: tuple[StartFlags, ...] = ()


_NEUTRAL = EngineRule()


class Profile(_Record):
    """One model family."""

    name: str
    title: str
    match: tuple[str, ...]
    #: "always": cannot be switched off · "switch": by request · "never"
    thinks: Literal["always", "switch", "never"]
    #: for "switch": what the engine does if nothing is said
    thinks_by_default: bool = True
    #: the prompt template writes `<think>`, so the output has only the closing tag
    starts_in_thinking: bool = False
    #: the family's chat template, for servers that only complete raw text; "" where we do not write it
    template: Literal["", "r1"] = ""
    #: the family wants `<think>\n` forced at the beginning of its output
    forces_think: bool = False
    #: "none": everything goes into the user turn · "own": the family's own text only · "allowed"
    system: Literal["none", "own", "allowed"] = "allowed"
    #: for "own"; `{date}` is today
    system_text: str = ""
    #: None leaves it to the engine or the client. Families that think keep theirs against a client's (see `samples`)
    temperature: float | None = None
    top_p: float | None = None
    #: largest window of the family in tokens; the engine's real one may be smaller
    context: int = 8192
    #: longest generation the family was evaluated with, in tokens; 0 if unknown
    answer_tokens: int = 0
    stop: tuple[str, ...] = ()
    #: what of earlier turns goes upstream
    history: Literal["answers_only", "tool_turns_keep_reasoning"] = "answers_only"
    #: whether it can call tools; "without_thinking": only while it does not think
    tools: Literal["none", "without_thinking", "yes"] = "none"
    #: languages the model is good for; empty means all of ours
    languages: tuple[Language, ...] = ()
    #: too small to be let speak: answers are quotes
    stand_in: bool = False
    engines: Mapping[str, EngineRule] = {}
    licence: str = ""
    sources: tuple[str, ...] = ()

    @property
    def guards_sampling(self) -> bool:
        """Whether a client's temperature is replaced: below 0.5 R1 repeats itself, above 0.7 it rambles."""
        return self.thinks == "always"

    def engine(self, name: str) -> EngineRule:
        """The rule for an engine; a neutral one if the profile says nothing about it."""
        return self.engines.get(name, _NEUTRAL)


@cache
def profiles() -> Mapping[str, Profile]:
    """All profiles by name, in the order in which they are tried."""
    table = tomllib.loads(files("pipelines").joinpath("profiles.toml").read_text(encoding="utf-8"))
    return {name: Profile(name=name, **fields) for name, fields in table.items()}


@cache
def profile_for(model: str, name: str = "") -> Profile:
    """The profile called `name`, or, without a name, the one that matches the model's name.

    `model` may be a Hugging Face id, an Ollama tag, a GGUF file's path or a served alias. Raises BadRequest for an
    unknown `name`.
    """
    if name:
        if name not in profiles():
            raise BadRequest(f"there is no model profile {name!r}: use one of {', '.join(profiles())}")
        return profiles()[name]
    plain_name = normalise(model)
    return next(p for p in profiles().values() if any(re.search(pattern, plain_name) for pattern in p.match))


def normalise(model: str) -> str:
    """A model's name for matching: no directory, no file ending or quantisation, lower case, `-` between words."""
    name = model.strip().replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    while (shorter := _FILE_ENDING.sub("", name)) != name:
        name = shorter
    return re.sub(r"[\s_:]+", "-", name)
