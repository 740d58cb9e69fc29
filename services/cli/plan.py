"""`deepwell plan`: what a model needs, which settings to run it with, and whether a running engine agrees."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, show_json, show_table

if TYPE_CHECKING:
    from pipelines.planner.hardware import Hardware
    from pipelines.planner.request import Plan, Request

GIB = 1 << 30
Model = Annotated[
    str,
    typer.Option("--model", help="Name, e.g. deepseek-r1:32b, or a GGUF file. Without it: every model's size here."),
]
Gpus = Annotated[
    str, typer.Option("--gpus", help="All GPUs, e.g. 8xV100-32GB, 2x48GiB@8.6 or none. Default: this machine's.")
]
Quantization = Annotated[
    str, typer.Option("--quantization", help="bf16, fp16, fp8, awq, gptq; or Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16.")
]
KvDtype = Annotated[str, typer.Option("--kv-cache-dtype", help="auto, fp8 (vllm), q8_0 or q4_0 (llamacpp, ollama).")]
NvLink = Annotated[bool | None, typer.Option("--nvlink/--no-nvlink", help="Whether NVLink joins the GPUs.")]
Eager = Annotated[bool | None, typer.Option("--enforce-eager/--cuda-graphs", help="Without or with CUDA graphs.")]


def plan(
    model: Model = "",
    engine: Annotated[str, typer.Option("--engine", help="auto, vllm, llamacpp or ollama.")] = "auto",
    gpus: Gpus = "",
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines the GPUs are in.")] = 1,
    nvlink: NvLink = None,
    ram: Annotated[str, typer.Option("--ram", help="Memory of one described machine, e.g. 64GiB.")] = "",
    context: Annotated[int, typer.Option("--context", min=0, help="Tokens of a window; 0 takes 16,384.")] = 0,
    users: Annotated[int, typer.Option("--users", min=0, help="Requests at once; 0 takes 1.")] = 0,
    quantization: Quantization = "",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, half or bfloat16, for vllm.")] = "auto",
    kv_cache_dtype: KvDtype = "auto",
    tensor_parallel_size: Annotated[int, typer.Option(min=0, help="GPUs a layer is divided over; 0 chooses.")] = 0,
    pipeline_parallel_size: Annotated[int, typer.Option(min=0, help="Stages of layers; 0 chooses.")] = 0,
    gpu_memory_utilization: Annotated[float, typer.Option(help="Share of GPU memory; 0 takes the default.")] = 0.0,
    max_num_seqs: Annotated[int, typer.Option(min=0, help="Requests admitted at once; 0 chooses.")] = 0,
    max_num_batched_tokens: Annotated[int, typer.Option(min=0, help="Tokens of one step; 0 takes the default.")] = 0,
    enforce_eager: Eager = None,
    speculative: Annotated[str, typer.Option("--speculative", help="mtp: guess with the model's own module.")] = "",
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Tokens of a question with its passages.")] = 3000,
    thinking_tokens: Annotated[int, typer.Option(help="Tokens of a thought; -1 takes the model's usual.")] = -1,
    answer_tokens: Annotated[int, typer.Option(min=0, help="Tokens of an answer.")] = 500,
    emit: Annotated[str, typer.Option("--emit", help="Print settings: vllm, ollama, llamacpp or compose.")] = "",
    verify: Annotated[
        str, typer.Option("--verify", help="Compare with the engine there; what is 0 is as it runs.")
    ] = "",
    matrix: Annotated[bool, typer.Option("--matrix", help="Which engine runs on which GPUs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Size a model for this machine or a described one: memory, layout, requests at once, settings.

    Exit code 2 says that it cannot be and what would work instead; 3 that a verified engine deviates.
    """
    from pipelines.planner.request import CONTEXT, Request
    from services import sizing

    if matrix:
        _show_matrix(as_json)
        return
    hardware = _hardware(gpus, nodes, ram, nvlink)
    if not model:
        _show_sizes(hardware, context or CONTEXT, as_json)
        return
    if speculative not in ("", "mtp"):
        raise typer.BadParameter("only mtp is known", param_hint="--speculative")
    architecture, file_bytes = sizing.model_of(model)
    request = Request(
        model=architecture, hardware=hardware, engine=engine, quantization=quantization, dtype=dtype,
        kv_dtype=kv_cache_dtype, context=context, users=users, prompt=prompt_tokens, thinking=thinking_tokens,
        answer=answer_tokens, tensor=tensor_parallel_size, pipeline=pipeline_parallel_size,
        utilization=gpu_memory_utilization, sequences=max_num_seqs, batch_tokens=max_num_batched_tokens,
        eager=enforce_eager, mtp=speculative == "mtp", file_bytes=file_bytes,
    )  # fmt: skip
    _answer(request, emit, verify, as_json)


def _answer(request: "Request", emit: str, verify: str, as_json: bool) -> None:
    import dataclasses

    from connectors.engine_settings import FORMS
    from connectors.engine_settings import emit as written
    from pipelines.planner.plan import plan as solve

    if emit in FORMS and emit != "compose" and request.engine == "auto":
        request = dataclasses.replace(request, engine=emit)
    if verify:
        _verify(request, verify, as_json)
        return
    found = solve(request)
    if emit:
        print(written(found, emit), end="")
    elif as_json:
        from services.sizing import shown

        show_json(shown(found))
    else:
        _show(found)


def _hardware(gpus: str, nodes: int, ram: str, nvlink: bool | None) -> "Hardware":
    from pipelines.errors import BadRequest
    from pipelines.planner.hardware import described
    from services.machine import amount, this_machine

    if not gpus and nodes > 1:
        raise BadRequest("several machines have to be described: --gpus 16xH100 --nodes 2, for example")
    found = described(gpus, nodes) if gpus else this_machine()
    changed: dict[str, object] = {"ram": amount(ram)} if ram else {}
    if nvlink is not None and found.gpu is not None:
        changed["gpu"] = found.gpu.model_copy(update={"nvlink": nvlink})
    return found.model_copy(update=changed)


# -- showing -------------------------------------------------------------------------------------------------------


def _show(found: "Plan") -> None:
    from connectors.engine_options import options
    from services.sizing import speed

    r, c = found.request, found.concurrency
    version = f" {found.row.version}" if found.row.version else ""
    print(f"{r.model.id}, {found.quantization} weights, {found.row.engine}{version}, on {r.hardware}")
    rows: list[list[object]] = [[name, f"{size / GIB:.2f} GiB"] for name, size in found.memory.items()]
    show_table("Memory of the fullest GPU" if r.hardware.gpu else "Memory", ["part", "size"], rows)
    print(f"KV cache     {found.capacity:,} tokens, {found.kv_token:,.0f} bytes each")
    print(f"At once      {c['full_length']} requests of the full {r.context:,} tokens")
    print(f"             {c['with_thinking']} of {r.request_tokens:,} tokens, {r.thinking_tokens:,} of them thinking")
    print(f"             {c['without_thinking']} of {r.prompt + r.answer:,} tokens, without thinking")
    print(f"Download     {found.download / 1e9:.1f} GB; {found.download * 8 / 1e8 / 60:.0f} minutes at 100 Mbit/s")
    print(f"Disk         {found.disk / 1e9:.1f} GB, a tenth of it to spare")
    if (s := speed(found)) is not None:
        print(f"Speed        at most {s['tokens_per_second_one_request']} tokens/s alone, "
              f"{s['tokens_per_second_all_requests']} with {s['requests']} at once")  # fmt: skip
        print(f"             ({s['label']}; expect {s['expect_share_of_bound'][0]} to {s['expect_share_of_bound'][1]})")
        print(f"             at best {s['seconds_to_end_of_answer']} s until the answer ends, thinking included")
    settings: list[list[object]] = [
        [option.name, "left out" if option.value is None else option.value, option.reason] for option in options(found)
    ]
    show_table("Settings", ["option", "value", "why"], settings)
    for layout, tokens in found.others[:5]:
        print(f"also fits    {layout}: {tokens * layout.replicas:,} tokens")
    for warning in found.warnings:
        print(f"note         {warning}")


def _show_sizes(hardware: "Hardware", context: int, as_json: bool) -> None:
    from services.sizing import sizes

    found = sizes(hardware, context)
    if as_json:
        show_json({"hardware": str(hardware), "models": found})
        return
    rows: list[list[object]] = []
    for m in found:
        sizes_of = [m["native_bytes"], m["q4_k_m_bytes"], m["kv_bytes"]]
        rows.append([m["id"], f"{m['parameters'] / 1e9:.2f} B", *(f"{size / GIB:.2f}" for size in sizes_of),
                     m["fits"] or "no"])  # fmt: skip
    title = f"Sizes in GiB; KV cache of {context:,} tokens; {hardware}"
    show_table(title, ["model", "parameters", "weights", "Q4_K_M", "KV", "runs here"], rows)


def _show_matrix(as_json: bool) -> None:
    from services.sizing import engines

    found = engines()
    if as_json:
        show_json({"engines": found})
        return
    rows: list[list[object]] = [
        [m["engine"], f"{m['start']} up to {m['below']}", m["status"], m["version"], m["note"]] for m in found
    ]
    show_table("Engines by compute capability", ["engine", "capability", "status", "version", "note"], rows)


def _verify(request: "Request", url: str, as_json: bool) -> None:
    from pipelines.planner.plan import plan as solve
    from services.settings import load_settings
    from services.sizing import as_it_runs, compared, running

    found = asyncio.run(running(url, load_settings().chat.api_key.get_secret_value()))
    result: dict[str, Any] = compared(solve(as_it_runs(request, found)), found)
    if as_json:
        show_json(result)
    else:
        print(f"{result['engine']} at {url} runs {result['model']}")
        rows: list[list[object]] = [
            [f["name"], f"{f['predicted']:,.6g}", f"{f['actual']:,.6g}", f"{f['deviation']:+.1%}"]
            for f in result["figures"]
        ]
        show_table("Predicted and actual", ["figure", "predicted", "actual", "deviation"], rows)
    if not result["ok"]:
        raise typer.Exit(3)
