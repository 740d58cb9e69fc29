"""Plans an engine that divides a model over GPUs and pages its KV cache (vLLM)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadRequest
from pipelines.planner.engines import EngineRow, check_quantization, dtype_for
from pipelines.planner.hardware import GIB, Gpu
from pipelines.planner.kv_cache import kv_bytes
from pipelines.planner.layouts import Layout, candidates, repeats_kv
from pipelines.planner.memory import Batch, Stage, block_size, default_batch, kv_tokens, stage_memory
from pipelines.planner.request import DoesNotFit, Plan, Request
from pipelines.planner.speed import speed
from pipelines.planner.weights import GGUF, SAFETENSORS, Weights, download_bytes, mtp_bytes, weights


@dataclass(frozen=True, slots=True)
class Fit:
    """A layout that holds the model and at least one request."""

    layout: Layout
    stage: Stage
    tokens: int
    batch: Batch


def plan_sharded(request: Request, row: EngineRow) -> Plan:
    """The best layout. Raises BadRequest for what is impossible, DoesNotFit for too little memory."""
    gpu = request.hardware.gpu
    assert gpu is not None
    dtype = dtype_for(gpu, request.dtype)
    quantization = _quantization(request, dtype)
    note = check_quantization(quantization, gpu)
    loaded = _loaded(request, quantization)
    tried = list(_tried(request, row, loaded))
    fits = [fit for fit in tried if fit.tokens >= request.context]
    if not fits:
        raise DoesNotFit(_too_small(request, quantization, tried))
    best = min(fits, key=lambda fit: _rank(request, fit))
    copy = speed(request, loaded.total, gpu, best.layout, best.batch.sequences)
    return Plan(
        request=request, row=row, quantization=quantization, dtype=dtype, layout=best.layout,
        memory=_parts(best.stage), kv_token=kv_bytes(request.model, request.kv_dtype),
        kv_token_gpu=best.stage.kv_token, kv_tokens=best.tokens, block=block_size(request.model),
        sequences=best.batch.sequences, batch_tokens=best.batch.tokens,
        utilization=request.utilization or row.utilization, eager=_eager(request, row),
        gpu_layers=request.model.layers, download=download_bytes(request.model, quantization), speed=copy,
        warnings=[
            *([note] if note else []), *_warnings(request, row, gpu, best), *_whole_windows(request, row, loaded, best),
        ],
        others=[(fit.layout, fit.tokens) for fit in fits if fit is not best],
    )  # fmt: skip


def _quantization(request: Request, dtype: str) -> str:
    sixteen = "bf16" if dtype == "bfloat16" else "fp16"
    asked = request.quantization or (request.model.native if request.model.native == "fp8" else sixteen)
    if asked in ("bf16", "fp16") and asked != sixteen and request.dtype == "auto" and asked == "bf16":
        raise BadRequest(
            f"bf16 weights need compute capability 8.0 or higher: use --quantization fp16 or leave it out; "
            f"{request.model.id} is converted to half precision while it loads"
        )
    if asked in GGUF:
        raise BadRequest(
            f"{asked} is a GGUF type, for llamacpp and ollama: use --engine llamacpp, or for vllm one of "
            f"{', '.join(SAFETENSORS)}"
        )
    return asked


def _loaded(request: Request, quantization: str) -> Weights:
    found = weights(request.model, quantization)
    if request.mtp:
        if not mtp_bytes(request.model):
            raise BadRequest(f"{request.model.id} has no module for multi-token prediction: leave --speculative out")
        found = Weights(found.embedding, found.layers, found.head + mtp_bytes(request.model))
    return found


def _eager(request: Request, row: EngineRow) -> bool:
    return row.eager if request.eager is None else request.eager


def _tried(request: Request, row: EngineRow, loaded: Weights) -> Iterator[Fit]:
    for layout in candidates(request.model, request.hardware, request.tensor, request.pipeline):
        yield _fit(request, row, loaded, layout)


def _fit(request: Request, row: EngineRow, loaded: Weights, layout: Layout) -> Fit:
    """Memory with the engine's own limits first, then with as many requests as the cache has room for."""
    gpu = request.hardware.gpu
    assert gpu is not None
    default = default_batch(gpu)
    batch = Batch(request.batch_tokens or default.tokens, request.sequences or default.sequences)
    fit = _measure(request, row, loaded, layout, batch)
    if not request.sequences and fit.tokens:
        share = math.ceil(request.users / layout.replicas)
        wanted = max(share, math.ceil(fit.tokens / min(request.request_tokens, request.context)))
        batch = Batch(batch.tokens, min(default.sequences, wanted))
        fit = _measure(request, row, loaded, layout, batch)
    return fit


def _measure(request: Request, row: EngineRow, loaded: Weights, layout: Layout, batch: Batch) -> Fit:
    gpu = request.hardware.gpu
    assert gpu is not None
    stages = stage_memory(
        request.model, loaded, gpu, layout, batch, request.utilization or row.utilization,
        eager=_eager(request, row), kv_dtype=request.kv_dtype,
    )  # fmt: skip
    block = block_size(request.model)
    fullest = min(stages, key=lambda stage: stage.kv / stage.kv_token)
    return Fit(layout, fullest, kv_tokens(fullest, block), batch)


def _rank(request: Request, fit: Fit) -> tuple[bool, float, float]:
    """Layouts that serve every user at full length first, no GPU unused, small copies; else the roomiest."""
    capacity = fit.tokens * fit.layout.replicas
    enough = capacity >= request.users * request.context
    unused = request.hardware.count - fit.layout.gpus * fit.layout.replicas
    return (not enough, unused if enough else -capacity, fit.layout.gpus)


def _parts(stage: Stage) -> dict[str, float]:
    return {
        "total": stage.total,
        "weights": stage.weights,
        "kv_cache": stage.kv,
        "peak_activations": stage.peak,
        "rope_tables": stage.rope,
        "outside_torch": stage.outside,
        "cuda_graphs": stage.graphs,
        "left_alone": stage.total - stage.budget,
    }


def _too_small(request: Request, quantization: str, tried: list[Fit]) -> str:
    best = max(tried, key=lambda fit: fit.tokens or fit.stage.kv, default=None)
    if best is None:
        return f"no layout of {request.model.id} is possible on {request.hardware}"
    where = f"{request.model.id} in {quantization} on {request.hardware}, {best.layout}"
    if best.tokens:
        return (
            f"{where}: there is room for {best.tokens:,} tokens of KV cache and one request of {request.context:,} "
            f"tokens needs them all: --context {best.tokens // 1024 * 1024}"
        )
    needs = best.stage.weights + best.stage.rope + best.stage.peak + best.stage.outside + best.stage.graphs
    return (
        f"{where}: does not fit. A GPU would hold {best.stage.weights / GIB:.1f} GiB of weights and "
        f"{(needs - best.stage.weights) / GIB:.1f} GiB beside them, and {best.stage.budget / GIB:.1f} GiB are there"
    )


def _warnings(request: Request, row: EngineRow, gpu: Gpu, fit: Fit) -> list[str]:
    found = []
    if row.status == "third-party":
        found.append(row.note)
    if gpu.capability < 8.0:
        found.append(
            "Half precision can overflow where bfloat16 does not; the answer is then a row of exclamation marks "
            "(reported for Qwen2.5, not verified): ask one question after loading"
        )
    if repeats_kv(request.model, fit.layout.tensor):
        found.append(
            f"Every one of the {fit.layout.tensor} GPUs holds the same keys and values: more tensor parallelism brings "
            "no more room for them. Data parallel attention with expert parallelism does"
            if request.model.latent
            else f"{request.model.kv_heads} key-value heads on {fit.layout.tensor} GPUs: some hold the same ones"
        )
    unused = request.hardware.count - fit.layout.gpus * fit.layout.replicas
    if unused:
        found.append(f"{unused} of {request.hardware.count} GPUs stay unused")
    return found


def _whole_windows(request: Request, row: EngineRow, loaded: Weights, fit: Fit) -> list[str]:
    """What is left where chunked prefill does not run on a card and each step has to hold a whole window."""
    if not row.chunk_by_hand or request.context <= fit.batch.tokens:
        return []
    whole = _measure(request, row, loaded, fit.layout, Batch(request.context, fit.batch.sequences))
    return [
        f"Should chunked prefill fail on this card: --no-enable-chunked-prefill --max-num-batched-tokens "
        f"{request.context} leaves {whole.tokens:,} tokens of KV cache instead of {fit.tokens:,}"
    ]
