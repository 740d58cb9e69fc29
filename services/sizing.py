"""Plans as the command shows them: a JSON object with the engines' own names, and a prediction beside what runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from connectors.engine_figures import Figures, figures
from connectors.engine_options import options
from connectors.gguf import Gguf, read
from connectors.upstream import Upstream
from pipelines.errors import BadRequest, UnreadableDocument
from pipelines.planner.architecture import Architecture, architectures, find
from pipelines.planner.engines import matrix
from pipelines.planner.hardware import Hardware
from pipelines.planner.plan import attempt
from pipelines.planner.request import Plan, Request
from pipelines.planner.throughput import LIKELY
from pipelines.planner.weights import weights

ROOFLINE = "upper bound from memory bandwidth and arithmetic, not a measurement"
#: largest deviation that --verify calls a match
TOLERANCE = 0.05


def model_of(name: str) -> tuple[Architecture, int]:
    """A model of the planner's table, or the one of a GGUF file with the bytes of its weights. Raises RagError."""
    if not name.lower().endswith(".gguf"):
        return find(name), 0
    header = read(Path(name))
    return from_gguf(header), header.size


def from_gguf(header: Gguf) -> Architecture:
    """Dimensions in a GGUF file's header. Raises BadRequest for a mixture of experts, UnreadableDocument for gaps."""
    get = {key.removeprefix(f"{header.architecture}."): value for key, value in header.metadata.items()}
    if get.get("expert_count") or "attention.kv_lora_rank" in get:
        raise BadRequest(
            f"{header.path.name} has experts or latent attention, which the planner knows only by name: use --model "
            "deepseek-r1:671b"
        )
    try:
        heads, hidden = int(get["attention.head_count"]), int(get["embedding_length"])
        vocab = get.get("vocab_size") or header.metadata["tokenizer.ggml.tokens"]
        found = Architecture(
            id=header.name or header.path.stem, layers=int(get["block_count"]), hidden=hidden, heads=heads,
            kv_heads=int(get.get("attention.head_count_kv") or heads),
            head_dim=int(get.get("attention.key_length") or hidden // heads), ffn=int(get["feed_forward_length"]),
            vocab=int(vocab), context=header.context or 4096, bound="header",
            qkv_bias=header.architecture == "qwen2", qk_norm=header.architecture == "qwen3",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableDocument(f"{header.path} does not say what the planner needs ({error})") from None
    # one embedding for both ends shows in the number of parameters; a split file counts its first part only
    tied = header.shards == 1 and header.parameters < found.parameters - found.embedding // 2
    return found.model_copy(update={"tied": tied})


def shown(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; engine options at the top level under their own names, sizes in bytes."""
    r = plan.request
    return {
        "ok": True,
        "model": {
            "id": r.model.id,
            "repository": r.model.repository,
            "parameters": r.model.parameters,
            "active_parameters": r.model.active_parameters,
            "licence": r.model.licence,
            "dimensions_from": r.model.bound,
        },
        "hardware": str(r.hardware),
        "engine": plan.row.engine,
        "engine_version": plan.row.version,
        "engine_status": plan.row.status,
        "environment": dict(plan.row.environment),
        **{option.name: option.value for option in options(plan) if option.value is not None},
        "weights": plan.quantization,
        "copies": plan.layout.replicas,
        "kv_cache_tokens": plan.kv_tokens,
        "num_gpu_blocks": plan.kv_tokens // plan.block,
        "block_size": plan.block,
        "kv_bytes_per_token": round(plan.kv_token),
        "concurrency": plan.concurrency,
        "tokens_per_request": {
            "prompt": r.prompt,
            "thinking": r.thinking_tokens,
            "answer": r.answer,
            "all": r.request_tokens,
        },
        "memory": {name: round(size) for name, size in plan.memory.items()},
        "download_bytes": plan.download,
        "disk_bytes": plan.disk,
        "throughput": speed(plan),
        "reasons": {option.name: option.reason for option in options(plan)},
        "warnings": plan.warnings,
        "other_layouts": [
            {
                "tensor_parallel_size": layout.tensor,
                "pipeline_parallel_size": layout.pipeline,
                "data_parallel_size": layout.replicas,
                "kv_cache_tokens": tokens,
            }
            for layout, tokens in plan.others
        ],
    }


def speed(plan: Plan) -> dict[str, Any] | None:
    """The roofline, labelled as such; None where the bandwidth is not known."""
    if (s := plan.speed) is None:
        return None
    return {
        "label": ROOFLINE,
        "tokens_per_second_one_request": round(s.one, 1),
        "tokens_per_second_all_requests": round(s.all, 1),
        "requests": s.batch,
        "expect_share_of_bound": list(LIKELY),
        "compute_bound_from_requests": round(s.compute_bound_batch),
        "prefill_seconds": round(s.prefill, 3),
        "seconds_to_end_of_answer": round(s.answer, 2),
    }


def sizes(hardware: Hardware, context: int) -> list[dict[str, Any]]:
    """Every model on one hardware: 16-bit and Q4_K_M bytes, KV cache of one window, and what runs it."""
    rows = []
    for model in architectures():
        request = Request(model=model, hardware=hardware, context=min(context, model.context))
        found = attempt(request) if hardware.gpu or hardware.ram else None
        native = "fp8" if model.native == "fp8" else "bf16"
        rows.append(
            {
                "id": model.id,
                "parameters": model.parameters,
                "active_parameters": model.active_parameters,
                "native": native,
                "native_bytes": round(weights(model, native).total),
                "q4_k_m_bytes": round(weights(model, "Q4_K_M").total),
                "kv_bytes": round(request.context * _kv(model)),
                "context": request.context,
                "fits": f"{found.row.engine} {found.quantization}" if found else "",
                "licence": model.licence,
            }
        )
    return rows


def _kv(model: Architecture) -> float:
    from pipelines.planner.kv_cache import kv_bytes

    return kv_bytes(model)


def engines() -> list[dict[str, Any]]:
    """The matrix of engines and compute capabilities."""
    return [row.model_dump(include={"engine", "start", "below", "status", "cpu", "version", "note", "source"})
            for row in matrix()]  # fmt: skip


# -- prediction beside what runs -----------------------------------------------------------------------------------


async def running(url: str, api_key: str = "") -> Figures:
    """Figures of the engine at an address. Raises ModelUnavailable."""
    upstream = Upstream(url.rstrip("/").removesuffix("/v1"), api_key=api_key)
    try:
        return await figures(upstream)
    finally:
        upstream.close()


def as_it_runs(request: Request, found: Figures) -> Request:
    """The request with what was left open taken from the engine, so that only the prediction can deviate."""
    says = found.values
    return replace(
        request,
        engine=found.engine if request.engine == "auto" else request.engine,
        context=request.context or int(says.get("max_model_len", 0)),
        users=request.users or int(says.get("sequences", 0)),
        utilization=request.utilization or says.get("gpu_memory_utilization", 0.0),
    )


def compared(plan: Plan, found: Figures) -> dict[str, Any]:
    """Predicted beside actual. Raises BadRequest where the engine is not the planned one."""
    if found.engine != plan.row.engine:
        raise BadRequest(f"{found.engine} runs there and the plan is for {plan.row.engine}: --engine {found.engine}")
    predicted = _predicted(plan)
    rows = []
    for name, actual in found.values.items():
        if name in predicted:
            deviation = predicted[name] / actual - 1 if actual else float(predicted[name] != actual)
            rows.append({"name": name, "predicted": predicted[name], "actual": actual, "deviation": round(deviation, 4),
                         "ok": abs(deviation) <= TOLERANCE})  # fmt: skip
    return {"engine": found.engine, "model": found.model, "figures": rows, "ok": all(row["ok"] for row in rows)}


def _predicted(plan: Plan) -> dict[str, float]:
    r = plan.request
    memory = plan.memory["weights"] + plan.memory["kv_cache"] + plan.memory.get("compute_buffers", 0)
    shared = {"max_model_len": r.context, "kv_cache_tokens": plan.kv_tokens, "sequences": plan.sequences}
    of_model = {"parameters": r.model.parameters, "context": r.model.context, "vocab": r.model.vocab}
    if plan.row.engine == "vllm":
        del shared["sequences"]
        return {**shared, "block_size": plan.block, "num_gpu_blocks": plan.kv_tokens // plan.block,
                "gpu_memory_utilization": plan.utilization}  # fmt: skip
    gpu_share = plan.gpu_layers / r.model.layers if r.hardware.gpu else 0.0
    return {**shared, **of_model, "weights": plan.memory["weights"], "memory": memory, "gpu_memory": memory * gpu_share}
