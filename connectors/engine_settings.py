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
    """Settings of the model server alone, to lay over docker-compose.yml; no port is published."""
    engine = plan.row.engine
    service = {"vllm": _vllm_service, "llamacpp": _llamacpp_service, "ollama": _ollama_service}[engine](plan)
    lines = [
        *heading(plan),
        *(f"# {o.name}: {o.reason}" for o in options(plan)),
        f"# Lies over docker-compose.yml: docker compose -f docker-compose.yml -f THIS_FILE{_profile(plan)} up -d",
        "services:",
        f"  {compose_service(plan)}:",
        *_yaml(service, 4),
    ]
    if engine == "llamacpp":
        lines += ["volumes:", "  models:"]
    return _text(lines)


def compose_service(plan: Plan) -> str:
    """Name of the model server in docker-compose.yml, which is its profile as well; llama.cpp has none there."""
    engine = plan.row.engine
    return engine if engine == "llamacpp" else f"{engine}-{'gpu' if plan.request.hardware.gpu else 'cpu'}"


def _profile(plan: Plan) -> str:
    return "" if plan.row.engine == "llamacpp" else f" --profile {compose_service(plan)}"


def _vllm_service(plan: Plan) -> dict[str, Any]:
    if plan.layout.gpus > plan.request.hardware.per_node:
        raise BadRequest("Compose runs on one machine and this copy needs several: --emit vllm, or fewer GPUs")
    command = [plan.request.model.repository, "--host=0.0.0.0", "--port=8000"]
    for option in options(plan):
        if option.value is not None:
            name, _, value = _flag(option).partition(" ")
            command += [f"{name}={value.strip(chr(39))}"] if value else [name]
    found: dict[str, Any] = {"image": f"vllm/vllm-openai:v{plan.row.version}", "command": command}
    if plan.row.environment:
        found["environment"] = dict(plan.row.environment)
    return found | {"shm_size": "16gb" if plan.layout.gpus > 1 else "8gb"} | _gpus(plan)


def _ollama_service(plan: Plan) -> dict[str, Any]:
    values = {o.name: str(o.value) for o in options(plan) if o.name.isupper() and o.name != "OLLAMA_HOST"}
    return {"environment": values} | _gpus(plan)


def _llamacpp_service(plan: Plan) -> dict[str, Any]:
    command = ["--model", "/models/${MODEL_FILE:?set it in .env}", "--host", "0.0.0.0", "--port", "8080"]
    for option in options(plan):
        name, _, value = _flag(option).partition(" ")
        command += [name, value] if value else [name]
    cuda = "-cuda" if plan.request.hardware.gpu else ""
    return {
        "image": f"ghcr.io/ggml-org/llama.cpp:server{cuda}",
        "restart": "unless-stopped",
        "user": "10001:10001",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "networks": {"back": {"aliases": ["model"]}},
        "command": command,
        "volumes": ["models:/models:ro"],
        **_gpus(plan, override=False),
        "healthcheck": {"test": ["CMD", "curl", "-f", "http://localhost:8080/health"], "start_period": "10m"},
    }


def _gpus(plan: Plan, override: bool = True) -> dict[str, Any]:
    """The GPUs of a service, in place of those that docker-compose.yml names for it."""
    if plan.request.hardware.gpu is None:
        return {}
    ids = [str(n) for n in range(plan.layout.gpus * plan.layout.replicas if plan.row.engine == "vllm" else
                                 plan.request.hardware.count)]  # fmt: skip
    device = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
    devices = f"!override {json.dumps([device])}" if override else [device]
    return {"deploy": {"resources": {"reservations": {"devices": devices}}}}


def _yaml(value: dict[str, Any], indent: int) -> list[str]:
    """YAML whose leaves are JSON, which YAML contains: nothing can be misread."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            lines += [f"{' ' * indent}{key}:", *_yaml(inner, indent + 2)]
        else:
            plain = isinstance(inner, str) and inner.startswith("!override ")
            lines.append(f"{' ' * indent}{key}: {inner if plain else json.dumps(inner)}")
    return lines


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
