"""Plans an engine that runs a GGUF file on one machine, layers divided over its GPUs and the CPU (llama.cpp, Ollama).

Memory = file + KV cache of every slot + compute buffer (512 tokens of logits and activations in 32 bits; llama.cpp's
default micro batch) + CUDA's context on each GPU (0.45 GiB, the figure Ollama reserves; not measured here).
"""

import math

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Architecture
from pipelines.planner.engines import EngineRow
from pipelines.planner.hardware import GIB
from pipelines.planner.kv_cache import kv_bytes
from pipelines.planner.layouts import Layout
from pipelines.planner.request import DoesNotFit, Plan, Request
from pipelines.planner.speed import speed
from pipelines.planner.weights import GGUF, download_bytes, weights

MICRO_BATCH = 512
CUDA_CONTEXT = 0.45 * GIB
#: share of the machine's memory that a model may take
RAM_SHARE = 0.9
DEFAULT = "Q4_K_M"
MIB_256 = 256 << 20


def compute_buffer(model: Architecture) -> float:
    """Bytes that computing one micro batch takes at the peak."""
    return MICRO_BATCH * (model.vocab + 2 * model.hidden + 2 * model.ffn) * 4.0


def default_context(memory: float) -> int:
    """Window Ollama takes by itself, from the bytes of GPU memory (docs/context-length): the trap."""
    return 4096 if memory < 24 * GIB else 32768 if memory < 48 * GIB else 262144


def plan_local(request: Request, row: EngineRow) -> Plan:
    """Slots, layers on the GPUs, memory. Raises BadRequest for what is impossible, DoesNotFit for too little memory."""
    _check(request, row)
    hardware, model = request.hardware, request.model
    quantization = request.quantization or DEFAULT
    size = request.file_bytes or weights(model, quantization).total
    token = kv_bytes(model, request.kv_dtype)
    compute = compute_buffer(model)
    on_gpu = hardware.count * (hardware.gpu.bytes - CUDA_CONTEXT - compute) if hardware.gpu else 0.0
    in_ram = max(0.0, hardware.ram * RAM_SHARE - compute)
    slots, layers = _share(request, size, token * request.context, on_gpu, in_ram)
    held = size + slots * token * request.context
    total = hardware.count * hardware.gpu.bytes if hardware.gpu else hardware.ram
    overhead = hardware.count * (CUDA_CONTEXT + compute) if hardware.gpu else compute
    gpu_share = layers / model.layers if hardware.gpu else 0.0
    return Plan(
        request=request, row=row, quantization=quantization, dtype=_kv_name(request.kv_dtype),
        layout=Layout(1, 1), kv_token=token, kv_token_gpu=token / max(1, hardware.count),
        memory={
            "total": float(total), "weights": size, "kv_cache": slots * token * request.context,
            "compute_buffers": overhead, "in_main_memory": held * (1 - gpu_share) if hardware.gpu else held + overhead,
        },
        kv_tokens=slots * request.context, block=1, sequences=slots, batch_tokens=MICRO_BATCH, utilization=1.0,
        eager=False, gpu_layers=layers,
        download=request.file_bytes or download_bytes(model, quantization),
        speed=speed(request, size, hardware.gpu, Layout(1, 1), slots) if hardware.gpu and gpu_share == 1 else None,
        warnings=_warnings(request, slots, gpu_share),
    )  # fmt: skip


def _check(request: Request, row: EngineRow) -> None:
    if request.hardware.nodes > 1:
        raise BadRequest(
            f"{row.engine} runs a model on one machine: plan each with --nodes 1 and run a copy on each, or use "
            "--engine vllm, which spreads one copy over several"
        )
    if request.tensor > 1 or request.pipeline > 1:
        raise BadRequest(
            f"{row.engine} divides layers over the GPUs by itself: leave --tensor-parallel-size and "
            "--pipeline-parallel-size out, or use --engine vllm"
        )
    if request.quantization and request.quantization not in GGUF and not request.file_bytes:
        raise BadRequest(
            f"{request.quantization} is not a GGUF type: for {row.engine} one of {', '.join(GGUF)}, or --engine vllm"
        )
    if row.engine == "ollama" and request.kv_dtype not in ("auto", "f16", "q8_0", "q4_0"):
        raise BadRequest(f"Ollama keeps its KV cache in f16, q8_0 or q4_0, not in {request.kv_dtype}")


def _kv_name(kv_dtype: str) -> str:
    return "f16" if kv_dtype == "auto" else kv_dtype


def _share(request: Request, size: float, slot: float, on_gpu: float, in_ram: float) -> tuple[int, int]:
    """Slots, and layers on GPUs. Raises DoesNotFit."""
    layers, wanted = request.model.layers, request.sequences or request.users
    if on_gpu >= size + slot:
        return min(wanted, math.floor((on_gpu - size) / slot)), layers
    if on_gpu + in_ram >= size + slot:
        slots = max(1, min(wanted, math.floor((on_gpu + in_ram - size) / slot)))
        return slots, max(0, math.floor(layers * on_gpu / (size + slots * slot)))
    room = on_gpu + in_ram
    message = (
        f"{request.model.id} on {request.hardware}: {size / GIB:.1f} GiB of weights and {slot / GIB:.2f} GiB for one "
        f"request of {request.context:,} tokens do not fit into {room / GIB:.1f} GiB"
    )
    if room > size + MIB_256:
        fitting = int((room - size) // (slot / request.context)) // 1024 * 1024
        message += f": --context {fitting}" if fitting else ""
    elif not request.hardware.ram:
        message += "; with --ram the planner knows what main memory can take over"
    raise DoesNotFit(message)


def _warnings(request: Request, slots: int, gpu_share: float) -> list[str]:
    found = []
    if slots < request.users:
        found.append(f"{slots} answers at once for {request.users} users: the others wait in a queue")
    if request.hardware.gpu and gpu_share < 1:
        found.append(
            f"Only {gpu_share:.0%} of the layers fit on the GPU; the CPU computes the others and sets the speed, which "
            "is not estimated"
        )
    return found
