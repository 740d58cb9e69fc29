"""A plan written out: a command, an environment, a Compose file, each line with its reason as a comment."""

import json
from typing import Any

from connectors.engine_options import Option, data_parallel, ollama_tag, options
from pipelines.errors import BadRequest
from pipelines.planner.request import Plan

FORMS = ("vllm", "ollama", "llamacpp", "compose")
RAY_PORT, MASTER_PORT = 6379, 29501


def emit(plan: Plan, form: str) -> str:
    """The settings of a plan. Raises BadRequest for a form that is not the planned engine's."""
    if form not in FORMS:
        raise BadRequest(f"--emit {form!r} is not known; known: {', '.join(FORMS)}")
    if form == "compose":
        return compose(plan)
    if form != plan.row.engine:
        raise BadRequest(f"the plan is for {plan.row.engine}: --emit {plan.row.engine}, or --engine {form}")
    return {"vllm": _vllm, "llamacpp": _llamacpp, "ollama": _ollama}[form](plan)


def heading(plan: Plan) -> list[str]:
    """What was planned, as comments."""
    r, c = plan.request, plan.concurrency
    lines = [
        f"# {r.model.id} in {plan.quantization} with {plan.row.engine} {plan.row.version}".rstrip(),
        f"# on {r.hardware}: {plan.layout}",
        f"# {plan.capacity:,} tokens of KV cache: {c['full_length']} requests of {r.context:,} tokens at once,",
        f"# {c['with_thinking']} of {r.request_tokens:,} tokens with thinking, {c['without_thinking']} without",
    ]
    return [*lines, *(f"# note: {warning}" for warning in plan.warnings), *_copies(plan)]


def _copies(plan: Plan) -> list[str]:
    """How more than one copy is started, where one server does not do it by itself."""
    if plan.row.engine != "vllm" or plan.layout.replicas == 1:
        return []
    lines = []
    if plan.request.hardware.nodes > 1:
        lines.append("# The copy fits into one machine: start this on each of them, with a load balancer in front.")
    if plan.copies_per_node > 1 and not data_parallel(plan):
        lines.append(
            f"# {plan.copies_per_node} copies on a machine: start this once for each, with its own --port and its own "
            "GPUs (CUDA_VISIBLE_DEVICES)."
        )
    return lines


def _flag(option: Option) -> str:
    name = "--" + option.name.replace("_", "-")
    if option.value is True:
        return name
    if option.value is False:
        return "--no-" + option.name.replace("_", "-")
    if isinstance(option.value, dict):
        return f"{name} '{json.dumps(option.value)}'"
    return f"{name} {option.value}"


def _command(start: str, plan: Plan, more: list[str]) -> list[str]:
    """A shell command over several lines. Comments stand above it, for a comment inside would end it."""
    given = [option for option in options(plan) if option.value is not None]
    flags = [*more, *map(_flag, given)]
    return [f"{start} \\", *(f"  {flag} \\" for flag in flags[:-1]), f"  {flags[-1]}"]


def _reasons(plan: Plan) -> list[str]:
    lines = []
    for option in options(plan):
        shown = f"no --{option.name.replace('_', '-')}" if option.value is None else _flag(option)
        lines.append(f"# {shown}: {option.reason}")
    return lines


# -- vLLM ----------------------------------------------------------------------------------------------------------

VLLM_FLAGS = ["--host 127.0.0.1", "--port 8000"]
VLLM_KEY = "# VLLM_API_KEY has to be set; it protects only the paths under /v1, so keep the port private"


def _vllm(plan: Plan) -> str:
    exports = [f"export {name}={value}" for name, value in plan.row.environment.items()]
    start = f"vllm serve {plan.request.model.repository or 'MODEL_DIRECTORY'}"
    if plan.request.hardware.nodes == 1 or plan.layout.gpus <= plan.request.hardware.per_node:
        return _text([*heading(plan), *_reasons(plan), VLLM_KEY, *exports, *_command(start, plan, VLLM_FLAGS)])
    if plan.row.version.startswith("0.8"):
        return _text([*heading(plan), *_reasons(plan), VLLM_KEY, *exports, *_ray(plan, start)])
    nodes = plan.request.hardware.nodes
    lines = ["# On every machine, with the same path of the model; HEAD is the address of the first one."]
    for node in range(nodes):
        more = [f"--nnodes {nodes}", f"--node-rank {node}", f'--master-addr "$HEAD" --master-port {MASTER_PORT}']
        more = [*VLLM_FLAGS, *more] if node == 0 else [*more, "--headless"]
        lines += [f"# machine {node}", *_command(start, plan, more)]
    return _text([*heading(plan), *_reasons(plan), VLLM_KEY, *exports, *lines])


def _ray(plan: Plan, start: str) -> list[str]:
    """Several machines through Ray: head, workers, waiting for all GPUs; joined so that a failure stops the rest."""
    gpus = plan.layout.gpus
    command = _command(start, plan, [*VLLM_FLAGS, "--distributed-executor-backend ray"])
    return [
        "# The machines talk unencrypted and can run code on each other: a private network only.",
        "# On every other machine, with HEAD the address of the first one:",
        f'#   ray start --address="$HEAD:{RAY_PORT}" --disable-usage-stats --block',
        "# On the first machine:",
        f"ray start --head --port={RAY_PORT} --disable-usage-stats && \\",
        f"until ray status | grep -q '/{gpus}.0 GPU'; do sleep 2; done && \\",
        *command,
    ]


# -- llama.cpp and Ollama ------------------------------------------------------------------------------------------


def _llamacpp(plan: Plan) -> str:
    r = plan.request
    return _text(
        [
            *heading(plan),
            *_reasons(plan),
            "# With the embedded server of Deepwell the same is said by:",
            f"#   DEEPWELL_CHAT__CONTEXT={r.context} DEEPWELL_CHAT__PARALLEL={plan.sequences}",
            *_command("llama-server --model MODEL.gguf", plan, ["--host 127.0.0.1", "--port 8080"]),
        ]
    )


def _ollama(plan: Plan) -> str:
    variables = [option for option in options(plan) if option.name.isupper()]
    lines = [*heading(plan), "# For systemd: `systemctl edit ollama.service`, straight quotes, one line each:"]
    lines += ["#   [Service]", *(f'#   Environment="{o.name}={o.value}"' for o in variables)]
    for option in variables:
        lines += [f"# {option.reason}", f"export {option.name}={option.value}"]
    window = next(option for option in options(plan) if option.name == "num_ctx")
    lines += [
        f"# {window.reason}; Deepwell asks for it with each request",
        f"export DEEPWELL_CHAT__CONTEXT={window.value}",
    ]
    return _text([*lines, "ollama serve &", *_brought(plan)])


def _brought(plan: Plan) -> list[str]:
    if tag := ollama_tag(plan):
        return [f"ollama pull {tag}"]
    return [
        f"# This model in {plan.quantization} is taken from its GGUF file:",
        "echo 'FROM ./MODEL.gguf' > Modelfile && ollama create my-model -f Modelfile",
    ]


# -- Compose -------------------------------------------------------------------------------------------------------


def compose(plan: Plan) -> str:
    """A Compose file of the model server alone, to lay over another; no port is published."""
    service = {"vllm": _vllm_service, "llamacpp": _llamacpp_service, "ollama": _ollama_service}[plan.row.engine](plan)
    lines = [*heading(plan), *(f"# {o.name}: {o.reason}" for o in options(plan)), "services:"]
    volume = service["volumes"][0].partition(":")[0]
    return _text([*lines, f"  {plan.row.engine}:", *_yaml(service, 4), "volumes:", f"  {volume}:"])


def _vllm_service(plan: Plan) -> dict[str, Any]:
    if plan.layout.gpus > plan.request.hardware.per_node:
        raise BadRequest("Compose runs on one machine and this copy needs several: --emit vllm, or fewer GPUs")
    given = [option for option in options(plan) if option.value is not None]
    command = ["--model", plan.request.model.repository, "--host", "0.0.0.0", "--port", "8000"]
    for option in given:
        name, _, value = _flag(option).partition(" ")
        command += [name, value.strip("'")] if value else [name]
    return {
        "image": f"vllm/vllm-openai:v{plan.row.version}",
        "restart": "unless-stopped",
        "command": command,
        "environment": {**plan.row.environment, "VLLM_API_KEY": "${VLLM_API_KEY:?set it in .env}"},
        "shm_size": "16gb" if plan.layout.gpus > 1 else "2gb",
        "volumes": ["vllm:/root/.cache/huggingface"],
        **_gpus(plan),
        "healthcheck": {
            "test": [
                "CMD-SHELL",
                "python3 -c 'import urllib.request as u; u.urlopen(\"http://localhost:8000/health\")'",
            ],
            "interval": "15s",
            "start_period": "20m",
        },
    }


def _ollama_service(plan: Plan) -> dict[str, Any]:
    values = {o.name: str(o.value) for o in options(plan) if o.name.isupper() and o.name != "OLLAMA_HOST"}
    return {
        "image": "ollama/ollama:0.32.0",
        "restart": "unless-stopped",
        "environment": values,
        "volumes": ["ollama:/root/.ollama"],
        **_gpus(plan),
        "healthcheck": {"test": ["CMD", "ollama", "list"], "interval": "10s", "retries": 12},
    }


def _llamacpp_service(plan: Plan) -> dict[str, Any]:
    command = ["--model", "/models/${MODEL_FILE:?set it in .env}", "--host", "0.0.0.0", "--port", "8080"]
    for option in options(plan):
        name, _, value = _flag(option).partition(" ")
        command += [name, value] if value else [name]
    cuda = "-cuda" if plan.request.hardware.gpu else ""
    return {
        "image": f"ghcr.io/ggml-org/llama.cpp:server{cuda}",
        "restart": "unless-stopped",
        "command": command,
        "volumes": ["models:/models:ro"],
        **_gpus(plan),
        "healthcheck": {"test": ["CMD", "curl", "-f", "http://localhost:8080/health"], "start_period": "10m"},
    }


def _gpus(plan: Plan) -> dict[str, Any]:
    if plan.request.hardware.gpu is None:
        return {}
    ids = [str(n) for n in range(plan.layout.gpus * plan.layout.replicas if plan.row.engine == "vllm" else
                                 plan.request.hardware.count)]  # fmt: skip
    device = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [device]}}}}


def _yaml(value: dict[str, Any], indent: int) -> list[str]:
    """YAML whose leaves are JSON, which YAML contains: nothing can be misread."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            lines += [f"{' ' * indent}{key}:", *_yaml(inner, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{key}: {json.dumps(inner)}")
    return lines


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
