"""Memory of one GPU under vLLM, and how many tokens of KV cache are left.

    KV = utilization * memory - weights - rope - peak - outside - graphs         (bytes, for each stage of a pipeline)

rope: cos/sin tables, context * head_dim * 2. peak: what the profiling run needs on top, the larger of the layers'
activations 1.085 * T * (3 * ffn / tp + 2 * hidden) * 2 and, on the last stage, the sampler's logits and probabilities
vocab * max_num_seqs * 4 * 2. (The run frees the first before it samples. The sum instead of the larger is 2 % under
the 1,040,928 tokens measured for the 7B on an H100; the larger meets them.) outside: what is not torch's, 0.3 GiB on
one GPU, 0.75 GiB with NCCL, 2 GiB with experts (ranges seen: 0.25-0.35 and 0.6-2). graphs: CUDA graphs.

Sources: vllm/v1/worker/gpu_worker.py (determine_available_memory), vllm/v1/core/kv_cache_utils.py, vllm issues 10517,
13061; the factor 1.085 is fitted to the peaks of issue 10517.
"""

from dataclasses import dataclass

from pipelines.planner.architecture import Architecture
from pipelines.planner.hardware import GIB, Gpu
from pipelines.planner.kv_cache import layer_kv_bytes
from pipelines.planner.layouts import Layout, stages
from pipelines.planner.weights import Weights

ACTIVATION_FACTOR = 1.085
#: bytes of activations and of the rope tables
TWO = 2
GRAPHS = 0.3 * GIB
#: vLLM's size of a block, in tokens; latent attention's kernels use larger ones
BLOCK, LATENT_BLOCK = 16, 64
#: GPUs with at least this memory get larger batches by default (vllm/engine/arg_utils.py, get_batch_defaults)
LARGE_GPU, LARGEST_GPU = 70 * GIB, 160 * GIB


@dataclass(frozen=True, slots=True)
class Batch:
    """Limits of vLLM's scheduler: tokens in one step, requests at once."""

    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes on each GPU of one stage of the pipeline."""

    total: int
    budget: float
    weights: float
    rope: float
    peak: float
    outside: float
    graphs: float
    #: KV cache of one token on one GPU
    kv_token: float

    @property
    def kv(self) -> float:
        """Bytes left for the KV cache; negative where the model does not fit."""
        return self.budget - self.weights - self.rope - self.peak - self.outside - self.graphs


def default_batch(gpu: Gpu) -> Batch:
    """vLLM's defaults for its server."""
    if gpu.bytes >= LARGEST_GPU:
        return Batch(16384, 1024)
    large = gpu.bytes >= LARGE_GPU and not gpu.name.upper().startswith("A100")
    return Batch(8192, 1024) if large else Batch(2048, 256)


def activations(model: Architecture, tokens: int, tensor: int = 1, factor: float = ACTIVATION_FACTOR) -> float:
    """Bytes of the layers' activations at the peak of a step of `tokens` tokens."""
    return factor * tokens * (3 * model.ffn / tensor + 2 * model.hidden) * TWO


def rope_bytes(model: Architecture) -> int:
    """Bytes of the cos/sin tables."""
    return model.context * (model.latent.rope if model.latent else model.head_dim) * TWO


def sampler_bytes(model: Architecture, sequences: int) -> int:
    """Bytes of logits and probabilities in 32 bits."""
    return model.vocab * sequences * 4 * 2


def outside_bytes(model: Architecture, layout: Layout) -> float:
    """Bytes that are not torch's: CUDA's context, NCCL's buffers."""
    if model.experts is not None:
        return 2 * GIB
    return (0.75 if layout.gpus > 1 else 0.3) * GIB


def stage_memory(
    model: Architecture, weights: Weights, gpu: Gpu, layout: Layout, batch: Batch, utilization: float, *, eager: bool,
    kv_dtype: str = "auto",
) -> list[Stage]:  # fmt: skip
    """Memory of the GPUs of every stage."""
    found = []
    for number, layers in enumerate(stages(model, layout.pipeline)):
        last = number == layout.pipeline - 1
        held = sum(weights.layers[n] for n in layers)
        held += (weights.embedding if number == 0 else 0) + (weights.head if last else 0)
        peak = activations(model, batch.tokens, layout.tensor)
        found.append(
            Stage(
                total=gpu.bytes,
                budget=utilization * gpu.bytes,
                weights=held / layout.tensor,
                rope=rope_bytes(model),
                peak=max(peak, sampler_bytes(model, batch.sequences) if last else 0),
                outside=outside_bytes(model, layout),
                graphs=0 if eager else GRAPHS,
                kv_token=layer_kv_bytes(model, kv_dtype, layout.tensor) * len(layers),
            )
        )
    return found


def block_size(model: Architecture) -> int:
    """Tokens of a block."""
    return LATENT_BLOCK if model.latent is not None else BLOCK


def kv_tokens(stage: Stage, block: int = BLOCK) -> int:
    """Tokens of KV cache in whole blocks."""
    return max(0, int(stage.kv // (stage.kv_token * block))) * block
