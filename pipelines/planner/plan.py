"""Plans a request, and says what would work where it cannot be."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipelines.errors import BadRequest
from pipelines.planner.architecture import architectures
from pipelines.planner.engines import row_for, supported
from pipelines.planner.hardware import Hardware, gpus
from pipelines.planner.local import plan_local
from pipelines.planner.request import DoesNotFit, Plan, Request
from pipelines.planner.sharded import plan_sharded

#: numbers of GPUs tried when one is looked for that would do
COUNTS = (1, 2, 4, 8, 16, 32)
GPUS_IN_A_NODE = 8


def plan(request: Request) -> Plan:
    """The plan. Raises BadRequest that says what is wrong and what would work instead."""
    request = request.resolved()
    try:
        return solve(request)
    except DoesNotFit as error:
        works = list(alternatives(request))
        instead = "; ".join(works[:4]) if works else "a larger GPU, or more of them"
        raise DoesNotFit(f"{error}. What would work instead: {instead}") from None


def solve(request: Request) -> Plan:
    """The plan, without looking for others where there is none."""
    request = request.resolved()
    _check(request)
    if request.engine == "auto":
        return _automatic(request)
    row = supported(request.engine, request.hardware.gpu)
    found = plan_sharded(request, row) if row.engine == "vllm" else plan_local(request, row)
    return dataclasses.replace(found, warnings=[*found.warnings, *_length_warnings(found)])


def _check(request: Request) -> None:
    model = request.model
    if min(request.context, request.users) < 1 or min(request.prompt, request.answer, request.sequences) < 0:
        raise BadRequest("context and users are at least 1, token counts and limits not negative")
    if request.context > model.context:
        raise BadRequest(
            f"{model.id} was made for {model.context:,} tokens and {request.context:,} are asked for: "
            f"--context {model.context} or less"
        )
    if not 0 <= request.utilization <= 1:
        raise BadRequest(f"--gpu-memory-utilization is a share from 0 to 1, not {request.utilization}")
    if request.hardware.gpu is None and not request.hardware.ram:
        raise BadRequest("a machine without GPU is planned by its memory: add --ram, for example --ram 64GiB")


def _automatic(request: Request) -> Plan:
    """vLLM where GPUs hold the model in its own precision, else llama.cpp."""
    failed: BadRequest | None = None
    vllm = request.hardware.gpu is not None and row_for("vllm", request.hardware.gpu).status == "works"
    for engine in ("vllm", "llamacpp") if vllm else ("llamacpp", "vllm"):
        try:
            return solve(dataclasses.replace(request, engine=engine))
        except BadRequest as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _length_warnings(found: Plan) -> list[str]:
    r, warnings = found.request, []
    if r.request_tokens > r.context:
        warnings.append(
            f"A question with passages ({r.prompt:,}), thinking ({r.thinking_tokens:,}) and answer ({r.answer:,}) has "
            f"{r.request_tokens:,} tokens and the window {r.context:,}: thinking will be cut. "
            f"--context {r.request_tokens}"
        )
    full, planned = found.concurrent(r.context), found.concurrent(min(r.request_tokens, r.context))
    if planned < r.users:
        warnings.append(
            f"{r.users} users, and {planned:.1f} requests of {r.request_tokens:,} tokens fit at once: others wait"
        )
    elif full < r.users:
        warnings.append(
            f"{r.users} users fit at {r.request_tokens:,} tokens each ({planned:.1f} at once) but not at the full "
            f"{r.context:,} ({full:.1f} at once)"
        )
    if found.sequences * found.layout.replicas > full:
        admitted = found.sequences * found.layout.replicas
        warnings.append(f"{admitted} requests are admitted at once, {full:.1f} of them can grow to the full window")
    return warnings


# -- what would work instead ---------------------------------------------------------------------------------------


def alternatives(request: Request) -> Iterator[str]:
    """Changes of a request that make it possible, the nearest first."""
    free = dataclasses.replace(request, tensor=0, pipeline=0)
    if (request.tensor or request.pipeline) and (found := attempt(free)):
        yield f"{found.layout} on the same GPUs"
    yield from _more_gpus(free)
    yield from _larger_gpus(free)
    for quantization in ("fp8", "awq", "gptq") if request.engine == "vllm" else ():
        if not request.quantization and (found := attempt(free, quantization=quantization)):
            yield f"{quantization} weights, {found.layout}"
            break
    if request.engine == "vllm" and (found := attempt(free, engine="llamacpp", quantization="")):
        yield f"--engine llamacpp with a {found.quantization} file ({found.memory['weights'] / 1e9:.1f} GB)"
    smaller = (row for row in reversed(architectures()) if row.parameters < request.model.parameters)
    for row in sorted(smaller, key=lambda row: -row.parameters):
        if row.thinking_tokens and attempt(free, model=row, context=min(request.context, row.context), file_bytes=0):
            yield f"{row.id} on {request.hardware}"
            break


def _more_gpus(request: Request) -> Iterator[str]:
    hardware = request.hardware
    if hardware.gpu is None:
        return
    for count in COUNTS:
        nodes = -(-count // GPUS_IN_A_NODE) if request.engine == "vllm" else 1
        if count <= hardware.count or count % nodes or (nodes == 1 and count > GPUS_IN_A_NODE):
            continue
        larger = Hardware(gpu=hardware.gpu, count=count, nodes=nodes, ram=hardware.ram)
        if found := attempt(request, hardware=larger):
            yield _named(larger, found)
            return


def _larger_gpus(request: Request) -> Iterator[str]:
    """As many, or a whole machine, of the smallest other GPU that would do."""
    own = request.hardware.gpu
    if own is None:
        return
    larger = sorted((gpu for gpu in gpus() if gpu.memory > 1.05 * own.memory), key=lambda gpu: gpu.memory)
    for count in dict.fromkeys((request.hardware.count, GPUS_IN_A_NODE)):
        for gpu in larger if count <= GPUS_IN_A_NODE else ():
            other = Hardware(gpu=gpu, count=count, ram=request.hardware.ram)
            if found := attempt(request, hardware=other):
                yield _named(other, found)
                return


def _named(hardware: Hardware, found: Plan) -> str:
    layout = f", {found.layout}" if found.row.engine == "vllm" else ""
    return f"{hardware} ({found.row.engine} {found.quantization}{layout})"


def attempt(request: Request, **changes: Any) -> Plan | None:
    """The plan of a changed request, None where there is none."""
    try:
        return solve(dataclasses.replace(request, **changes))
    except BadRequest:
        return None
