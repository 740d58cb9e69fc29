"""A plan in the words of the engine that runs it: each option with its own name, its value and the reason."""

from dataclasses import dataclass
from typing import Any

from packaging.specifiers import SpecifierSet

from pipelines.planner.engines import BFLOAT16_FROM
from pipelines.planner.hardware import GIB
from pipelines.planner.local import DEFAULT, default_context
from pipelines.planner.request import Plan
from pipelines.profiles import profile_for


@dataclass(frozen=True, slots=True)
class Option:
    """One option. None as a value means that the option is deliberately left out of the command."""

    name: str
    value: Any
    reason: str


def options(plan: Plan) -> list[Option]:
    """The engine's options, in the order in which they are best read."""
    return {"vllm": vllm, "llamacpp": llamacpp, "ollama": ollama}[plan.row.engine](plan)


# -- vLLM ----------------------------------------------------------------------------------------------------------


def vllm(plan: Plan) -> list[Option]:
    """Options of `vllm serve` (vllm/engine/arg_utils.py)."""
    return [*_parallel(plan), *_precision(plan), *_limits(plan), *_behaviour(plan)]


def _parallel(plan: Plan) -> list[Option]:
    model, layout, hardware = plan.request.model, plan.layout, plan.request.hardware
    where = f"{hardware.per_node} GPUs in one machine" if hardware.nodes > 1 else str(hardware)
    heads = f"{model.heads} heads and a feed-forward width of {model.ffn} divide by {layout.tensor}"
    found = [Option("tensor_parallel_size", layout.tensor, f"{where}; {heads}")]
    across = "across machines" if hardware.nodes > 1 else "layers are divided where heads cannot be, or without NVLink"
    reason = across if layout.pipeline > 1 else "one stage: the copy stays inside a machine"
    found.append(Option("pipeline_parallel_size", layout.pipeline, reason))
    if plan.copies_per_node > 1 and data_parallel(plan):
        reason = "a copy fits on fewer GPUs than there are; more copies answer more requests than one divided copy"
        found.append(Option("data_parallel_size", plan.copies_per_node, reason))
    return found


def data_parallel(plan: Plan) -> bool:
    """Whether one server of the planned version runs several copies by itself; the V0 engine of 0.8 does not."""
    return plan.row.version in SpecifierSet(">=0.9")


def _precision(plan: Plan) -> list[Option]:
    gpu, request = plan.request.hardware.gpu, plan.request
    assert gpu is not None
    rule = "has bfloat16" if gpu.capability >= BFLOAT16_FROM else f"is below {BFLOAT16_FROM}: no bfloat16"
    found = [Option("dtype", plan.dtype, f"compute capability {gpu.capability} {rule}")]
    if plan.quantization == "fp8" and request.model.native != "fp8":
        found.append(Option("quantization", "fp8", "weights are rounded to FP8 while they load; half the memory"))
    if plan.quantization in ("awq", "gptq"):
        reason = "the model has to be a repository with weights of this kind; the original one is not"
        found.append(Option("quantization", plan.quantization, reason))
    if request.kv_dtype != "auto":
        reason = f"{plan.kv_token:,.0f} bytes a token instead of twice that"
        found.append(Option("kv_cache_dtype", request.kv_dtype, reason))
    return found


def _limits(plan: Plan) -> list[Option]:
    at_once = plan.concurrent(plan.request.context) / plan.layout.replicas
    room = f"{plan.sequences} admitted, {at_once:.1f} of them at the full {plan.request.context:,} tokens"
    kv = f"{plan.kv_token * plan.request.context / GIB:.2f} GiB of KV cache for one request of full length"
    return [
        Option("max_model_len", plan.request.context, kv),
        Option("max_num_seqs", plan.sequences, room),
        Option("max_num_batched_tokens", plan.batch_tokens, "tokens of one step; sets the peak of activations"),
        Option("gpu_memory_utilization", plan.utilization, f"{plan.memory['left_alone'] / GIB:.1f} GiB stay free"),
    ]


def _behaviour(plan: Plan) -> list[Option]:
    gpu, found = plan.request.hardware.gpu, list[Option]()
    assert gpu is not None
    if plan.eager:
        found.append(Option("enforce_eager", True, "as published for this version and card; CUDA graphs cost memory"))
    if plan.layout.tensor > 1 and not gpu.nvlink:
        found.append(Option("disable_custom_all_reduce", True, "the GPUs are not joined by NVLink"))
    if plan.row.chunk_by_hand:
        reason = "a step need not hold a whole window; off is this version's default, see the note"
        found.append(Option("enable_chunked_prefill", True, reason))
    found += [Option("reasoning_parser", parser, "thinking comes in a field of its own") for parser in _parsers(plan)]
    if plan.request.mtp:
        value = {"method": "mtp", "num_speculative_tokens": 1}
        found.append(Option("speculative_config", value, "the model's own module guesses the token after the next"))
    reason = "not needed for these models, and runs code from the model's repository"
    return [*found, Option("trust_remote_code", None, reason)]


def _parsers(plan: Plan) -> list[str]:
    """Reasoning parser of the model's profile for the planned version."""
    profile = profile_for(plan.request.model.repository or plan.request.model.id)
    for row in profile.engine("vllm").flags:
        if plan.row.version in SpecifierSet(row.versions):
            return [row.flags[row.flags.index("--reasoning-parser") + 1]]
    return []


# -- llama.cpp and Ollama ------------------------------------------------------------------------------------------


def llamacpp(plan: Plan) -> list[Option]:
    """Options of `llama-server` (tools/server/README)."""
    r, slots = plan.request, plan.sequences
    found = [
        Option("ctx_size", r.context * slots, f"{slots} x {r.context:,} tokens; the option counts all slots together"),
        Option("parallel", slots, f"answers at once, for {r.users} users"),
    ]
    if r.hardware.gpu is not None:
        reason = "all layers on the GPU" if plan.gpu_layers == r.model.layers else "as many layers as fit on the GPU"
        found.append(Option("n_gpu_layers", plan.gpu_layers + (plan.gpu_layers == r.model.layers), reason))
    if plan.dtype != "f16":
        reason = f"KV cache in {plan.dtype}: {plan.kv_token:,.0f} bytes a token; needs flash attention"
        found += [Option("flash_attn", "on", reason), Option("cache_type_k", plan.dtype, reason)]
        found.append(Option("cache_type_v", plan.dtype, reason))
    found.append(Option("jinja", True, "the model's own template, which opens the thinking"))
    found.append(Option("reasoning_format", "deepseek", "thinking comes in a field of its own"))
    return found


def ollama(plan: Plan) -> list[Option]:
    """Variables of `ollama serve` (docs/faq, docs/context-length); num_ctx is what one request may ask for."""
    r, gpu = plan.request, plan.request.hardware.gpu
    default = default_context(r.hardware.count * gpu.bytes if gpu else 0)
    trap = f"by itself Ollama takes {default:,} here"
    trap += " and cuts longer prompts without a word" if default < r.context else " and the memory for them"
    found = [
        Option("num_ctx", r.context, trap),
        Option("OLLAMA_CONTEXT_LENGTH", r.context, "the same for clients that do not ask for a window"),
        Option(
            "OLLAMA_NUM_PARALLEL", plan.sequences, f"answers at once, for {r.users} users; each takes its own window"
        ),
        Option("OLLAMA_MAX_LOADED_MODELS", 1, "a second model would push this one out of memory"),
        Option("OLLAMA_KEEP_ALIVE", "24h", "the default of five minutes loads the model again after each pause"),
        Option("OLLAMA_HOST", "127.0.0.1:11434", "Ollama asks nobody for a key: do not open it to the network"),
    ]
    if plan.dtype != "f16":
        reason = f"{plan.kv_token:,.0f} bytes a token; for all models, and only with flash attention"
        found += [Option("OLLAMA_FLASH_ATTENTION", 1, reason), Option("OLLAMA_KV_CACHE_TYPE", plan.dtype, reason)]
    return found


def ollama_tag(plan: Plan) -> str:
    """Name of the model in Ollama's library, "" for a quantisation that is not its default one.

    8b there is the model of May 2025, and 671b too.
    """
    if plan.quantization != DEFAULT:
        return ""
    tags = {
        "deepseek-r1:8b": "deepseek-r1:8b-llama-distill-q4_K_M",
        "deepseek-r1:8b-0528": "deepseek-r1:8b",
        "deepseek-r1:671b-0528": "deepseek-r1:671b",
        "deepseek-r1:671b": "",
    }
    return tags.get(plan.request.model.id, plan.request.model.id)
