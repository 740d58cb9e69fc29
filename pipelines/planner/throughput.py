"""Upper bounds of speed: a roofline of memory bandwidth and arithmetic, not a measurement.

A decoding step reads every active weight and every key and value once, and computes 2 operations for each active
parameter and request: t = max((weights + sum of contexts * kv) / bandwidth, 2 * parameters * batch / flops).
Stages of a pipeline work one after another for one request. Real engines reach 0.5 to 0.9 of it (docs/concepts/
sizing.md has what was measured on an H100).
"""

#: share of the bound to expect before anything is measured
LIKELY = (0.5, 0.7)
#: share of the GPU's operations that a prefill reaches
PREFILL_SHARE = 0.5


def step_seconds(
    weight_bytes: float, kv_bytes: float, active: float, batch: int, bandwidth: float, flops: float
) -> float:
    """Seconds of one decoding step at best; kv_bytes of all contexts, bandwidth in bytes/s, flops in operations/s."""
    compute = 2 * active * batch / flops if flops else 0.0
    return max((weight_bytes + kv_bytes) / bandwidth, compute)


def compute_bound_batch(bandwidth: float, flops: float, bytes_per_weight: float) -> float:
    """Requests at once from which arithmetic and no longer memory is the limit."""
    return flops * bytes_per_weight / (2 * bandwidth)


def prefill_seconds(active: float, tokens: int, flops: float, share: float = PREFILL_SHARE) -> float:
    """Seconds until a prompt of `tokens` tokens is read."""
    return 2 * active * tokens / (flops * share)
