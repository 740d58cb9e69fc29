"""Bytes of the KV cache for each token.

Grouped-query attention: 2 x layers x kv_heads x head_dim x bytes. Latent attention (DeepSeek V3, R1): layers x
(kv_lora + rope) x bytes, the same on every tensor-parallel GPU, for there is one latent vector and no heads to divide.
"""

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Architecture

#: bits of one element; q8_0 and q4_0 are llama.cpp's and Ollama's, with a 16-bit scale for 32 elements
KV_BITS = {"auto": 16.0, "f16": 16.0, "fp8": 8.0, "q8_0": 8.5, "q4_0": 4.5, "f32": 32.0}
#: bytes a token and layer in vLLM's fp8_ds_mla layout (not verified)
FP8_LATENT = 656


def kv_bytes(model: Architecture, dtype: str = "auto") -> float:
    """Bytes of one token over all layers and heads."""
    return layer_kv_bytes(model, dtype) * model.layers


def layer_kv_bytes(model: Architecture, dtype: str = "auto", tensor_parallel: int = 1) -> float:
    """Bytes of one token in one layer on one of `tensor_parallel` GPUs. Raises BadRequest for an unknown dtype."""
    if dtype not in KV_BITS:
        raise BadRequest(f"no type {dtype!r} of KV cache; known: {', '.join(KV_BITS)}")
    if model.latent is not None:
        if dtype == "fp8":
            return FP8_LATENT
        return (model.latent.kv_lora + model.latent.rope) * KV_BITS[dtype] / 8
    share = max(1 / tensor_parallel, 1 / model.kv_heads)
    return 2 * model.kv_heads * model.head_dim * KV_BITS[dtype] / 8 * share


def plain_attention_kv_bytes(model: Architecture) -> int:
    """What one token would take if latent attention kept every head's key and value, in 16 bits."""
    return 2 * model.layers * model.heads * model.head_dim * 2 + _rope_part(model)


def _rope_part(model: Architecture) -> int:
    return model.layers * model.heads * model.latent.rope * 2 if model.latent else 0
