"""The roofline of a plan."""

from pipelines.planner.hardware import Gpu
from pipelines.planner.kv_cache import kv_bytes
from pipelines.planner.layouts import Layout
from pipelines.planner.request import Request, Speed
from pipelines.planner.throughput import compute_bound_batch, prefill_seconds, step_seconds


def read_bytes(request: Request, weight_bytes: float, batch: int) -> float:
    """Bytes of weights that one step of `batch` requests reads: with experts, those that some request needs."""
    model = request.model
    if (e := model.experts) is None:
        return weight_bytes
    active = model.active_parameters / model.parameters
    rest = 1 - (1 - e.active / e.count) ** (batch - 1)
    return weight_bytes * (active + (1 - active) * rest)


def speed(request: Request, weight_bytes: float, gpu: Gpu | None, layout: Layout, sequences: int) -> Speed | None:
    """Upper bounds for a layout, None where the GPU's bandwidth is not known."""
    if gpu is None or not gpu.bandwidth or not gpu.tflops:
        return None
    model = request.model
    bandwidth, flops = gpu.bandwidth * 1e9 * layout.tensor, gpu.tflops * 1e12 * layout.tensor
    length = min(request.prompt + (request.thinking_tokens + request.answer) / 2, request.context)
    kv = kv_bytes(model, request.kv_dtype) * length
    batch = max(1, min(sequences, -(-request.users // layout.replicas)))
    active = model.active_parameters
    alone = step_seconds(read_bytes(request, weight_bytes, 1), kv, active, 1, bandwidth, flops)
    together = step_seconds(read_bytes(request, weight_bytes, batch), kv * batch, active, batch, bandwidth, flops)
    prefill = prefill_seconds(active, request.prompt, flops)
    return Speed(
        one=1 / alone,
        all=batch * layout.replicas / together,
        batch=batch * layout.replicas,
        compute_bound_batch=compute_bound_batch(bandwidth, flops, weight_bytes / model.parameters),
        prefill=prefill,
        answer=prefill + (request.thinking_tokens + request.answer) * together,
    )
