"""Ways to spread one copy of a model over GPUs: tensor parallel inside a machine, pipeline parallel across machines.

Policy: github.com/vllm-project/vllm, docs/serving/parallelism_scaling. Layers of a pipeline: vllm/distributed/utils.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Architecture
from pipelines.planner.hardware import Hardware

#: elements of a block of FP8 weights, which no GPU may hold a part of
FP8_BLOCK = 128
MOST_TENSOR_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """One copy of the model over tensor * pipeline GPUs, `replicas` times."""

    tensor: int
    pipeline: int
    replicas: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of one copy."""
        return self.tensor * self.pipeline

    def __str__(self) -> str:
        copies = f", {self.replicas} copies" if self.replicas > 1 else ""
        return f"TP {self.tensor} x PP {self.pipeline}{copies}"


def why_not(model: Architecture, tensor: int) -> str:
    """Why a model cannot be split over `tensor` GPUs in each layer; "" if it can."""
    if model.heads % tensor:
        return f"{model.heads} attention heads cannot be divided by {tensor}"
    kv = model.kv_heads
    if model.latent is None and (kv % tensor if tensor <= kv else tensor % kv):
        return f"{kv} key-value heads neither divide by {tensor} nor repeat evenly"
    for width in (model.ffn, *([model.experts.ffn] if model.experts else [])):
        if width % tensor:
            return f"the feed-forward width {width} cannot be divided by {tensor}"
        if model.native == "fp8" and (width // tensor) % FP8_BLOCK:
            return f"FP8 blocks of {FP8_BLOCK} would be cut: {width} / {tensor}"
    return ""


def valid_tensor_parallel(model: Architecture, most: int = MOST_TENSOR_PARALLEL) -> list[int]:
    """Every tensor-parallel size a model can be split into."""
    return [t for t in range(1, most + 1) if not why_not(model, t)]


def repeats_kv(model: Architecture, tensor: int) -> bool:
    """Whether several GPUs hold the same keys and values, so that more of them bring no more room for them."""
    return tensor > 1 if model.latent is not None else tensor > model.kv_heads


def stages(model: Architecture, pipeline: int) -> list[range]:
    """Layers of each stage; what is left over goes to the stages before the last."""
    counts = [model.layers // pipeline] * pipeline
    for n in range(2, model.layers % pipeline + 2):
        counts[-n] += 1
    ends = [sum(counts[: n + 1]) for n in range(pipeline)]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def candidates(model: Architecture, hardware: Hardware, tensor: int = 0, pipeline: int = 0) -> Iterator[Layout]:
    """Layouts on this hardware; `tensor` and `pipeline` fix a side. Raises BadRequest for an impossible one."""
    if tensor:
        _check_tensor(model, hardware, tensor, pipeline)
    if max(tensor, 1) * pipeline > hardware.count or pipeline > model.layers:
        raise BadRequest(
            f"TP {tensor or 1} x PP {pipeline} needs {(tensor or 1) * pipeline} GPUs and there are {hardware.count}: "
            f"for example TP {tensor or 1} x PP {max(1, hardware.count // (tensor or 1))}"
        )
    for gpus in range(1, hardware.count + 1):
        if gpus > hardware.per_node and gpus % hardware.per_node:
            continue  # a copy stays inside one machine, or takes whole machines
        t = tensor or (gpus // pipeline if pipeline else _widest(model, hardware, gpus))
        p = pipeline or gpus // t
        if t * p == gpus and t <= hardware.per_node and p <= model.layers and not why_not(model, t):
            yield Layout(t, p, hardware.count // gpus)


def _widest(model: Architecture, hardware: Hardware, gpus: int) -> int:
    """Tensor parallel as wide as one machine allows where GPUs are joined by NVLink; else layers are divided."""
    if hardware.gpu is None or not hardware.gpu.nvlink:
        return 1
    return max(t for t in valid_tensor_parallel(model, min(hardware.per_node, gpus)) if gpus % t == 0)


def _check_tensor(model: Architecture, hardware: Hardware, tensor: int, pipeline: int) -> None:
    valid = [t for t in valid_tensor_parallel(model) if t <= hardware.per_node]
    if reason := why_not(model, tensor):
        instead = f"TP {' or '.join(map(str, valid))}"
        if tensor <= hardware.count:
            instead += f"; or PP {tensor} with TP 1, which divides layers and not heads"
        raise BadRequest(f"TP {tensor} is impossible for {model.id}: {reason}. What works: {instead}")
    if tensor > hardware.per_node:
        raise BadRequest(
            f"TP {tensor} needs {tensor} GPUs in one machine and there are {hardware.per_node}: "
            f"TP {max(valid)} inside a machine"
            + (f" and PP {hardware.nodes} across the machines" if hardware.nodes > 1 and not pipeline else "")
        )
