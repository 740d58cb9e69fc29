"""Dimensions of models, how many parameters they add up to, and the names they go by."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.errors import BadRequest

#: models with sparse or sliding attention in some layers
HYBRID = re.compile(r"v3\.2|v4|gemma|gpt-oss")


class Row(BaseModel):
    """A row of one of the planner's tables; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Experts(Row):
    """Mixture of experts in every layer but the first `dense_layers`."""

    count: int
    shared: int
    active: int
    ffn: int
    dense_layers: int


class Latent(Row):
    """Multi-head latent attention: keys and values as one compressed vector of kv_lora + rope elements."""

    q_lora: int
    kv_lora: int
    nope: int
    rope: int
    v: int


class Architecture(Row):
    """Dimensions of a decoder-only transformer."""

    id: str
    repository: str = ""
    names: tuple[str, ...] = ()
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    #: tokens of the window it was made for
    context: int
    native: str = "bf16"
    qkv_bias: bool = False
    qk_norm: bool = False
    #: input and output embedding are one matrix
    tied: bool = False
    #: a GGUF file carries one more small tensor (Llama 3)
    rope_freqs: bool = False
    #: llama.cpp keeps the values' projection of the 70B in more bits
    attn_v_q5: bool = False
    #: tokens a thought of this model is planned with
    thinking_tokens: int = 1500
    bound: str = ""
    licence: str = ""
    experts: Experts | None = None
    latent: Latent | None = None

    @property
    def attention(self) -> int:
        """Parameters of attention in one layer, its own norms and biases included."""
        h = self.hidden
        if (m := self.latent) is not None:
            q = h * m.q_lora + m.q_lora + m.q_lora * self.heads * (m.nope + m.rope)
            kv = h * (m.kv_lora + m.rope) + m.kv_lora + m.kv_lora * self.heads * (m.nope + m.v)
            return q + kv + self.heads * m.v * h
        q, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return 2 * h * q + 2 * h * k + (q + 2 * k) * self.qkv_bias + 2 * self.head_dim * self.qk_norm

    def feed_forward(self, layer: int, active: bool = False) -> int:
        """Parameters of one layer's feed-forward part; `active`: only those one token passes through."""
        e = self.experts
        if e is None or layer < e.dense_layers:
            return 3 * self.hidden * self.ffn
        expert = 3 * self.hidden * e.ffn
        if active:
            return (e.active + e.shared) * expert + e.count * self.hidden
        return (e.count + e.shared) * expert + e.count * self.hidden + e.count

    def layer(self, layer: int, active: bool = False) -> int:
        """Parameters of one layer."""
        return self.attention + 2 * self.hidden + self.feed_forward(layer, active)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding; the output one has as many."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, without modules for multi-token prediction."""
        layers = sum(self.layer(n) for n in range(self.layers))
        return layers + (1 if self.tied else 2) * self.embedding + self.hidden

    @property
    def active_parameters(self) -> int:
        """Parameters one token passes through, both embeddings counted."""
        layers = sum(self.layer(n, active=True) for n in range(self.layers))
        return layers + (1 if self.tied else 2) * self.embedding + self.hidden

    @property
    def mtp_parameters(self) -> int:
        """The module for multi-token prediction without its copies of the embeddings; 0 where there is none."""
        if self.experts is None:
            return 0
        return self.layer(self.layers) + 2 * self.hidden * self.hidden + 3 * self.hidden


@cache
def architectures() -> tuple[Architecture, ...]:
    """Every model of architectures.toml."""
    rows = tomllib.loads(files("pipelines.planner").joinpath("architectures.toml").read_text("utf-8"))["model"]
    whole: dict[str, dict[str, Any]] = {row["id"]: row for row in rows}
    return tuple(Architecture.model_validate(_complete(row, whole)) for row in rows)


def _complete(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    base = dict(rows[row["same_as"]]) if "same_as" in row else {}
    return {**base, **{key: value for key, value in row.items() if key != "same_as"}}


def find(name: str) -> Architecture:
    """The model of a name: ours, its repository's, or a usual short form. Raises BadRequest that lists ours."""
    wanted = name.lower().removeprefix("deepseek-ai/").strip()
    for row in architectures():
        if wanted in (row.id, row.repository.lower(), row.repository.rpartition("/")[2].lower(), *row.names):
            return row
    if HYBRID.search(wanted):
        raise BadRequest(
            f"{name} mixes kinds of attention, so its KV cache is no number of bytes for each token and a size would "
            "be a guess: read vLLM's own line `GPU KV cache size` for two windows"
        )
    known = ", ".join(row.id for row in architectures())
    raise BadRequest(
        f"no model {name!r} is known to the planner. Known: {known}. "
        "Any other is planned from its GGUF file: --model FILE.gguf"
    )
