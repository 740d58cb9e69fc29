"""What a running engine says about itself, in the planner's words: /metrics of vLLM, /props of llama.cpp, /api/ps of
Ollama. Which one it is, is found by asking.

Sources: vllm/v1/metrics (vllm:cache_config_info, an info gauge whose labels are the cache's settings), llama.cpp
tools/server/README (/props, /v1/models with `meta`), Ollama docs/api (/api/version, /api/ps).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.upstream import Upstream
from pipelines.errors import ModelUnavailable

GAUGE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

#: vLLM's labels -> the planner's names
CACHE_LABELS = {
    "block_size": "block_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "num_gpu_blocks": "num_gpu_blocks",
    "kv_cache_size_tokens": "kv_cache_tokens",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """An engine, the model it runs, and its figures by the planner's names; only what it says is there."""

    engine: str
    model: str
    values: Mapping[str, float] = field(default_factory=dict)


async def figures(upstream: Upstream) -> Figures:
    """Ask a running engine. Raises ModelUnavailable where nothing answers, or where it is none of the three."""
    for ask in (_llamacpp, _ollama, _vllm):
        if (found := await ask(upstream)) is not None:
            return found
    raise ModelUnavailable(
        "what answers there is neither vLLM (/metrics with vllm:cache_config_info), nor llama.cpp (/props), nor Ollama "
        "(/api/ps); give the engine's own address, without /v1"
    )


async def _json(upstream: Upstream, path: str) -> Any:
    async with await upstream.request("GET", path, timeout=10.0) as answer:
        if answer.status != 200 or "json" not in answer.headers.get("content-type", ""):
            await answer.body()
            return None
        return await answer.json()


async def _llamacpp(upstream: Upstream) -> Figures | None:
    props = await _json(upstream, "/props")
    if not isinstance(props, dict) or "total_slots" not in props:
        return None
    models = await _json(upstream, "/v1/models")
    rows = models.get("data") if isinstance(models, dict) else None
    meta = (rows[0].get("meta") or {}) if rows else {}
    slots = int(props["total_slots"])
    window = int((props.get("default_generation_settings") or {}).get("n_ctx") or 0)
    named = {"n_params": "parameters", "size": "weights", "n_ctx_train": "context", "n_vocab": "vocab"}
    values = {ours: float(meta[theirs]) for theirs, ours in named.items() if meta.get(theirs)}
    values |= {"sequences": slots, "max_model_len": window, "kv_cache_tokens": slots * window}
    return Figures("llamacpp", str(props.get("model_path") or (rows[0]["id"] if rows else "")), values)


async def _ollama(upstream: Upstream) -> Figures | None:
    running = await _json(upstream, "/api/ps")
    if not isinstance(running, dict) or "models" not in running or not await _json(upstream, "/api/version"):
        return None
    if not running["models"]:
        raise ModelUnavailable("Ollama runs, and no model is loaded: ask it one question first, then verify")
    row = running["models"][0]
    values = {"memory": float(row["size"]), "gpu_memory": float(row.get("size_vram") or 0)}
    if row.get("context_length"):
        values["max_model_len"] = float(row["context_length"])
    return Figures("ollama", str(row["name"]), values)


async def _vllm(upstream: Upstream) -> Figures | None:
    async with await upstream.request("GET", "/metrics", timeout=10.0) as answer:
        text = (await answer.body()).decode("utf-8", "replace") if answer.status == 200 else ""
    labels = cache_labels(text)
    if not labels:
        return None
    values = {}
    for theirs, ours in CACHE_LABELS.items():
        if (number := _number(labels.get(theirs, ""))) is not None:
            values[ours] = number
    if {"block_size", "num_gpu_blocks"} <= values.keys():
        values.setdefault("kv_cache_tokens", values["block_size"] * values["num_gpu_blocks"])
    models = await _json(upstream, "/v1/models")
    rows = (models or {}).get("data") or [{}]
    if rows[0].get("max_model_len"):
        values["max_model_len"] = float(rows[0]["max_model_len"])
    return Figures("vllm", str(rows[0].get("root") or rows[0].get("id") or ""), values)


def cache_labels(metrics: str) -> dict[str, str]:
    """Labels of vLLM's gauge in a page of metrics, {} where it is not there."""
    match = GAUGE.search(metrics)
    return dict(LABEL.findall(match[1])) if match else {}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
