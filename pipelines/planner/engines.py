"""Which engine runs on which GPU, and in which 16-bit type."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Row
from pipelines.planner.hardware import Gpu

#: engines that settings are written for
PLANNED = ("vllm", "llamacpp", "ollama")
#: smallest compute capability with bfloat16 (vllm/platforms/cuda.py, supported_dtypes)
BFLOAT16_FROM = 8.0
DTYPES = {"auto": "auto", "bf16": "bfloat16", "bfloat16": "bfloat16", "half": "half", "fp16": "half", "float16": "half"}


class EngineRow(Row):
    """An engine on a range of compute capabilities; see engines.toml."""

    engine: str
    #: first capability of the range
    start: float
    below: float
    status: str
    cpu: bool = False
    version: str = ""
    utilization: float = 0.92
    eager: bool = False
    #: chunked prefill is off by default, and without it a step holds a whole window
    chunk_by_hand: bool = False
    environment: Mapping[str, str] = {}
    note: str
    source: str


class QuantizationRow(Row):
    """Weights in fewer bits: the smallest capability that computes in them, and that only stores them."""

    name: str
    start: float
    weight_only_from: float = 99.0
    note: str
    source: str


@cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(files("pipelines.planner").joinpath("engines.toml").read_text("utf-8"))


def matrix() -> tuple[EngineRow, ...]:
    """Every row of the matrix of engines and capabilities."""
    return tuple(EngineRow.model_validate(row) for row in _tables()["row"])


def row_for(engine: str, gpu: Gpu | None) -> EngineRow:
    """The row that decides, whatever it decides. Raises BadRequest for an unknown engine."""
    rows = [row for row in matrix() if row.engine == engine]
    if not rows:
        raise BadRequest(f"no engine {engine!r}; known: {', '.join(dict.fromkeys(row.engine for row in matrix()))}")
    if gpu is None:
        return rows[0]
    return next(row for row in rows if row.start <= gpu.capability < row.below)


def supported(engine: str, gpu: Gpu | None) -> EngineRow:
    """The row of an engine that runs on a GPU (or without one). Raises BadRequest with the engines that do."""
    row = row_for(engine, gpu)
    if (row.cpu if gpu is None else row.status != "no") and engine in PLANNED:
        return row
    works = [name for name in PLANNED if _runs(name, gpu)]
    where = f"a {gpu.name} (compute capability {gpu.capability})" if gpu else "a machine without GPU"
    why = row.note if gpu or engine not in PLANNED else "its CPU build is not what these settings are for"
    raise BadRequest(f"{engine} is not planned for {where}: {why}. What works there: {', '.join(works) or 'the CPU'}")


def _runs(engine: str, gpu: Gpu | None) -> bool:
    row = row_for(engine, gpu)
    return row.cpu if gpu is None else row.status != "no"


def dtype_for(gpu: Gpu, asked: str = "auto") -> str:
    """The 16-bit type on a GPU, in vLLM's words. Raises BadRequest for bfloat16 where there is none."""
    if asked not in DTYPES:
        raise BadRequest(f"no dtype {asked!r}; known: {', '.join(DTYPES)}")
    best = "bfloat16" if gpu.capability >= BFLOAT16_FROM else "half"
    wanted = DTYPES[asked]
    if wanted == "bfloat16" and best == "half":
        raise BadRequest(
            f"bfloat16 needs compute capability 8.0 or higher and {gpu.name} has {gpu.capability}: use --dtype half "
            "(vLLM's own message says the same), or GPUs from A100, A10 or RTX 30 on"
        )
    return best if wanted == "auto" else wanted


def check_quantization(name: str, gpu: Gpu) -> str:
    """A note on weights in fewer bits on a GPU, "" for 16 bits. Raises BadRequest where they do not run."""
    rows = [QuantizationRow.model_validate(row) for row in _tables()["quantization"]]
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        return ""
    if gpu.capability >= row.start:
        return ""
    if gpu.capability >= row.weight_only_from:
        return f"{name} saves memory on {gpu.name} but is not computed in: {row.note}"
    works = [r.name for r in rows if gpu.capability >= min(r.start, r.weight_only_from)]
    raise BadRequest(
        f"{name} weights do not run on {gpu.name} (compute capability {gpu.capability}): {row.note}. "
        f"What works there: fp16{''.join(', ' + name for name in works)}, or a GGUF file with llamacpp or ollama"
    )
