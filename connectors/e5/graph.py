"""The BERT encoder of multilingual-e5-small as an OpenVINO model, written with its opset: there is no export to trust.

Inputs: `words`, word vectors (batch, length, hidden), and `mask` (batch, length), 1 for a token and 0 for padding.
Output: mean over tokens, length 1 (batch, hidden). Architecture: https://arxiv.org/abs/1810.04805, exact (erf) GELU.
"""

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from connectors.e5.weights import Floats, Weights

MASKED = np.float32(-1e9)


def encoder(weights: Weights, *, int8: bool) -> Any:
    """The whole encoder as `ov.Model`; `int8` stores the large matrices as int8 with one scale for each output."""
    words = op.parameter([-1, -1, weights.hidden], np.float32, name="words")
    mask = op.parameter([-1, -1], np.float32, name="mask")
    bias = op.unsqueeze(op.multiply(op.subtract(constant(1.0), mask), constant(MASKED)), axes(1, 2))
    state = embedded(weights, words)
    for number in range(weights.layers):
        state = layer(weights, f"l{number}.", state, bias, int8)
    total = op.reduce_sum(op.multiply(state, op.unsqueeze(mask, axes(2))), axes(1), False)
    return ov.Model([op.normalize_l2(total, axes(1), 1e-12, "add")], [words, mask], "multilingual-e5-small")


def embedded(weights: Weights, words: Any) -> Any:
    """Word vectors plus position and type embeddings, normalised."""
    table = weights.tensor("emb.pos", weights.positions, weights.hidden) + weights.token_type()
    length = op.gather(op.shape_of(words, "i64"), axes(1), axes(0))
    positions = op.slice(constant(table), axes(0), length, axes(1), axes(0))
    return layer_norm(weights, "emb.ln.", op.add(words, op.unsqueeze(positions, axes(0))))


def layer(weights: Weights, prefix: str, state: Any, bias: Any, int8: bool) -> Any:
    """One encoder layer: self-attention and feed-forward, each with residual and layer normalisation."""
    hidden, inner = weights.hidden, weights.inner
    matrix = np.concatenate([weights.tensor(f"{prefix}{part}.w", hidden, hidden) for part in "qkv"])
    offset = np.concatenate([weights.tensor(f"{prefix}{part}.b", hidden) for part in "qkv"])
    split = op.reshape(linear(state, matrix, offset, int8), axes(0, 0, 3, weights.heads, hidden // weights.heads), True)
    parts = op.split(op.transpose(split, axes(2, 0, 3, 1, 4)), op.constant(np.int64(0)), 3).outputs()
    query, key, value = (op.squeeze(part, axes(0)) for part in parts)
    attended = op.transpose(op.scaled_dot_product_attention(query, key, value, bias), axes(0, 2, 1, 3))
    attended = op.reshape(attended, axes(0, 0, hidden), True)
    out = linear(
        attended, weights.tensor(f"{prefix}ao.w", hidden, hidden), weights.tensor(f"{prefix}ao.b", hidden), int8
    )
    state = layer_norm(weights, f"{prefix}aln.", op.add(state, out))
    wide = linear(state, weights.tensor(f"{prefix}fi.w", inner, hidden), weights.tensor(f"{prefix}fi.b", inner), int8)
    narrow = weights.tensor(f"{prefix}fo.w", hidden, inner)
    out = linear(op.gelu(wide, "ERF"), narrow, weights.tensor(f"{prefix}fo.b", hidden), int8)
    return layer_norm(weights, f"{prefix}oln.", op.add(state, out))


def linear(state: Any, matrix: Floats, offset: Floats, int8: bool) -> Any:
    """state @ matrix.T + offset, with a matrix of shape (out, in)."""
    if int8:
        scale = np.maximum(np.abs(matrix).max(1, keepdims=True), 1e-12) / np.float32(127)
        rounded = np.clip(np.round(matrix / scale), -127, 127).astype(np.int8)
        weight = op.multiply(op.convert(op.constant(rounded), "f32"), constant(scale))
    else:
        weight = constant(matrix)
    return op.add(op.matmul(state, weight, False, True), constant(offset.reshape(1, 1, -1)))


def layer_norm(weights: Weights, prefix: str, state: Any) -> Any:
    """Layer normalisation over the last axis."""
    scale, offset = (weights.tensor(prefix + part, weights.hidden).reshape(1, 1, -1) for part in "wb")
    centred = op.mvn(state, axes(-1), True, weights.epsilon, "INSIDE_SQRT")
    return op.add(op.multiply(centred, constant(scale)), constant(offset))


def constant(value: Any) -> Any:
    """A float32 constant."""
    return op.constant(np.asarray(value, np.float32))


def axes(*numbers: int) -> Any:
    """An int64 constant of axes or sizes."""
    return op.constant(np.array(numbers, np.int64))
