"""Bytes of weights, in memory and on disk.

16 bits: 2 bytes a parameter. FP8 as DeepSeek ships it: 1 byte, a 32-bit scale for each block of 128 x 128, embeddings,
norms and routers in 16 bits (github.com/deepseek-ai/DeepSeek-V3, README_WEIGHTS). AWQ and GPTQ: 4 bits with a 16-bit
scale and a 4-bit zero for each group of 128. GGUF: bits a weight by tensor, by llama.cpp's recipe
(src/llama-quant, ggml-common.h); the files of the 32B, the Llama-8B and the 671B come out exact.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Architecture

#: bits of one weight, by type of tensor (ggml-common.h: bytes of a block over its elements)
BITS = {"q3_K": 3.4375, "q4_K": 4.5, "q5_K": 5.5, "q6_K": 6.5625, "q8_0": 8.5, "f16": 16.0, "f32": 32.0}
#: file type -> (type of most matrices, type of those that matter more)
GGUF = {
    "Q4_K_M": ("q4_K", "q6_K"),
    "Q5_K_M": ("q5_K", "q6_K"),
    "Q6_K": ("q6_K", "q6_K"),
    "Q8_0": ("q8_0", "q8_0"),
    "F16": ("f16", "f16"),
}
#: tokenizer and other metadata of a GGUF file
GGUF_METADATA = 6_000_000
#: a GGUF file keeps these in 32 bits: vectors, and the router of a mixture of experts
GROUP_BITS = 4 + (16 + 4) / 128
FP8_SCALE = 4 / (128 * 128)
SAFETENSORS = ("bf16", "fp16", "fp8", "awq", "gptq")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a GGUF file."""

    name: str
    elements: int
    layer: int = -1


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of weights by part; a stage of a pipeline holds some layers and perhaps an end."""

    embedding: float
    layers: tuple[float, ...]
    #: output embedding and last norm
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.embedding + sum(self.layers) + self.head


@lru_cache(maxsize=256)
def weights(model: Architecture, quantization: str) -> Weights:
    """Bytes of the weights in a quantisation. Raises BadRequest for an unknown one."""
    if quantization in GGUF:
        return _gguf(model, quantization)
    if quantization not in SAFETENSORS:
        raise BadRequest(f"no quantization {quantization!r}; known: {', '.join([*SAFETENSORS, *GGUF])}")
    layers = tuple(_layer_bytes(model, n, quantization) for n in range(model.layers))
    ends = 2.0 * model.embedding
    return Weights(ends, layers, 2.0 * model.hidden + (0 if model.tied else ends))


def _layer_bytes(model: Architecture, layer: int, quantization: str) -> float:
    elements = model.layer(layer)
    if quantization in ("bf16", "fp16"):
        return 2.0 * elements
    matrices, rest = elements - _vectors(model, layer), _vectors(model, layer)
    if quantization == "fp8":
        return matrices * (1 + FP8_SCALE) + 2.0 * rest
    return matrices * GROUP_BITS / 8 + 2.0 * rest


def _vectors(model: Architecture, layer: int) -> int:
    """Elements of a layer that stay in 16 bits: norms, biases, and the router."""
    q, k = model.heads * model.head_dim, model.kv_heads * model.head_dim
    found = 2 * model.hidden + (q + 2 * k) * model.qkv_bias + 2 * model.head_dim * model.qk_norm
    if model.latent is not None:
        found += model.latent.q_lora + model.latent.kv_lora
    if model.experts is not None and layer >= model.experts.dense_layers:
        found += model.experts.count * (model.hidden + 1)
    return found


def mtp_bytes(model: Architecture) -> float:
    """Bytes of the multi-token module as DeepSeek ships it: FP8, with 16-bit copies of both embeddings."""
    return model.mtp_parameters * (1 + FP8_SCALE) + 4.0 * model.embedding if model.mtp_parameters else 0.0


def download_bytes(model: Architecture, quantization: str) -> int:
    """Bytes of the files to download."""
    total = weights(model, quantization).total
    if quantization in GGUF:
        return round(total) + GGUF_METADATA
    return round(total + (mtp_bytes(model) if quantization == "fp8" else 0))


# -- GGUF ----------------------------------------------------------------------------------------------------------


def tensors(model: Architecture) -> Iterator[Tensor]:
    """Every tensor of the model's GGUF file, in llama.cpp's words."""
    yield Tensor("token_embd", model.embedding)
    for layer in range(model.layers):
        rows = [*_attention_tensors(model), *_feed_forward_tensors(model, layer)]
        yield from (Tensor(name, elements, layer) for name, elements in rows)
    yield Tensor("output_norm", model.hidden)
    if not model.tied:
        yield Tensor("output", model.embedding)
    if model.rope_freqs:
        yield Tensor("rope_freqs", model.head_dim // 2)


def _attention_tensors(model: Architecture) -> Iterator[tuple[str, int]]:
    h = model.hidden
    yield "attn_norm", h
    if (m := model.latent) is not None:
        yield from [("attn_q_a", h * m.q_lora), ("attn_q_a_norm", m.q_lora)]
        yield "attn_q_b", m.q_lora * model.heads * (m.nope + m.rope)
        yield from [("attn_kv_a_mqa", h * (m.kv_lora + m.rope)), ("attn_kv_a_norm", m.kv_lora)]
        yield "attn_kv_b", m.kv_lora * model.heads * (m.nope + m.v)
        yield "attn_output", model.heads * m.v * h
        return
    q, k = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield from [("attn_q", h * q), ("attn_k", h * k), ("attn_v", h * k), ("attn_output", q * h)]
    if model.qkv_bias:
        yield from [("attn_q_bias", q), ("attn_k_bias", k), ("attn_v_bias", k)]
    if model.qk_norm:
        yield from [("attn_q_norm", model.head_dim), ("attn_k_norm", model.head_dim)]


def _feed_forward_tensors(model: Architecture, layer: int) -> Iterator[tuple[str, int]]:
    h, e = model.hidden, model.experts
    yield "ffn_norm", h
    if e is None or layer < e.dense_layers:
        yield from [(name, h * model.ffn) for name in ("ffn_gate", "ffn_up", "ffn_down")]
        return
    yield from [("ffn_gate_inp", h * e.count), ("exp_probs_bias", e.count)]
    yield from [(name, h * e.ffn * e.count) for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")]
    yield from [(name, h * e.ffn * e.shared) for name in ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")]


def tensor_type(model: Architecture, quantization: str, tensor: Tensor) -> str:
    """Type of a tensor in a file type."""
    most, better = GGUF[quantization]
    if tensor.name.endswith(("norm", "bias", "freqs", "gate_inp")):
        return "f32"
    if tensor.name == "output":
        return better
    matters = tensor.name == "attn_v" or tensor.name.startswith("ffn_down")
    if matters and _more_bits(tensor.layer, model.layers):
        return better
    return "q5_K" if tensor.name == "attn_v" and model.attn_v_q5 and quantization == "Q4_K_M" else most


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's choice of layers: the first and last eighth and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def types(model: Architecture, quantization: str) -> Counter[str]:
    """How many tensors of each type a GGUF file has, as llama.cpp prints while loading."""
    return Counter(tensor_type(model, quantization, tensor) for tensor in tensors(model))


def _gguf(model: Architecture, quantization: str) -> Weights:
    layers, ends = [0.0] * model.layers, {"token_embd": 0.0, "head": 0.0}
    for tensor in tensors(model):
        size = tensor.elements * BITS[tensor_type(model, quantization, tensor)] / 8
        if tensor.layer >= 0:
            layers[tensor.layer] += size
        else:
            ends["token_embd" if tensor.name == "token_embd" else "head"] += size
    return Weights(ends["token_embd"], tuple(layers), ends["head"])
