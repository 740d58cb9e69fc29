"""What `deepwell compose up` writes before the stack starts: secrets, the planned model server, and `.env`.

Secrets are files that only this user can reach: their folder is closed to everybody else (0700). The files in it are
0444, because each container runs as a user of its own, without the right to read what is not its own, and is given
only those that it needs. None is ever overwritten. `.env` names no secret.
"""

import contextlib
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.engine_options import ollama_tag
from connectors.engine_settings import compose, compose_service
from pipelines.errors import BadRequest, Conflict, NotFound
from pipelines.planner.hardware import GIB, Hardware
from pipelines.planner.plan import plan
from pipelines.planner.request import Plan, Request
from services.sizing import model_of
from services.store.database import database_errors
from services.store.keys import PREFIX as KEY

FILE, ENV, OVERLAY, SECRETS = "docker-compose.yml", ".env", "deploy/model.yaml", "deploy/secrets"
MODEL_SERVERS = ("ollama-cpu", "ollama-gpu", "vllm-cpu", "vllm-gpu")
#: a model server elsewhere: .env says where
ELSEWHERE = "none"
MORE = ("webui", "observability")
URLS = {"ollama": "http://model:11434", "vllm": "http://model:8000"}
#: a secret -> what stands before its random part
_SECRETS = {
    "postgres_password": "",
    "milvus_token": "root:",
    "minio_password": "",
    "model_key": "",
    "citation_secret": "",
    "client_key": KEY,
    "webui_secret": "",
    "grafana_password": "",
}
#: volumes that were made with a secret and open with no other one
_BOUND = {"postgres_password": "postgres", "milvus_token": "milvus", "grafana_password": "grafana"}
_HEAD = (
    "# Written by `deepwell compose up`; lines of your own are kept. No secrets: those are files in deploy/secrets.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody wants to bring up. 0 and "" leave it to the planner."""

    profile: str
    more: Sequence[str] = ()
    model: str = "deepseek-r1:7b"
    context: int = 0
    users: int = 0
    gpus: int = 0


def project(directory: Path) -> Path:
    """The directory with our Compose file: this one, or the checkout that this code lies in. Raises NotFound."""
    for found in (directory, Path(__file__).parents[1]):
        if (found / FILE).is_file() and (found / "deploy").is_dir():
            return found.absolute()
    raise NotFound(
        f"there is no {FILE} of Deepwell in {directory.absolute()}: run this in its checkout, or --directory"
    )


def profiles_of(wanted: Wanted, hardware: Hardware) -> list[str]:
    """Profiles of the Compose file, `ollama` and `vllm` completed by what this machine has. Raises BadRequest."""
    unknown = [name for name in wanted.more if name not in MORE]
    if unknown:
        raise BadRequest(f"there is no profile {unknown[0]!r} to put on top; there are: {', '.join(MORE)}")
    name = wanted.profile
    if name == ELSEWHERE:
        return [*wanted.more]
    if name in URLS:
        name += "-gpu" if hardware.gpu else "-cpu"
    if name not in MODEL_SERVERS:
        raise BadRequest(f"there is no profile {name!r}; there are: {', '.join((*URLS, *MODEL_SERVERS, ELSEWHERE))}")
    if name.endswith("-gpu") and hardware.gpu is None:
        raise BadRequest(
            f"{name} needs a GPU, and nvidia-smi shows none on this machine: install NVIDIA's driver, or take "
            f"{name.removesuffix('-gpu')}-cpu"
        )
    return [name, *wanted.more]


def planned(wanted: Wanted, profile: str, hardware: Hardware) -> Plan | None:
    """The model server's settings for this machine; None for vLLM on a CPU, which the planner does not know.

    Raises BadRequest with what would work instead, for a wrong number of GPUs and for a model that does not fit.
    """
    engine, _, kind = profile.partition("-")
    if profile == "vllm-cpu":
        return None
    if kind == "cpu":
        hardware = Hardware(ram=hardware.ram)
    elif wanted.gpus > hardware.count or wanted.gpus < 0:
        raise BadRequest(f"{wanted.gpus} GPUs are asked for, and this machine has {hardware.count}: --gpus 1 to that")
    elif wanted.gpus:
        hardware = hardware.model_copy(update={"count": wanted.gpus})
    architecture, file_bytes = model_of(wanted.model)
    return plan(
        Request(
            model=architecture, hardware=hardware, engine=engine, context=wanted.context, users=wanted.users,
            file_bytes=file_bytes,
        )
    )  # fmt: skip


def environment(wanted: Wanted, profiles: Sequence[str], found: Plan | None) -> dict[str, str]:
    """What `.env` says. Raises BadRequest for a model that Ollama's library does not have in this form."""
    values = {"COMPOSE_PROFILES": ",".join(profiles), "COMPOSE_FILE": FILE}
    engine = profiles[0].partition("-")[0] if profiles and profiles[0] in MODEL_SERVERS else ""
    if not engine:
        return values
    values |= {"DEEPWELL_CHAT__SERVER": engine, "DEEPWELL_CHAT__URL": URLS[engine]}
    if found is None:
        architecture = model_of(wanted.model)[0]
        context = {"DEEPWELL_CHAT__CONTEXT": str(wanted.context)} if wanted.context else {}
        pull = {"DEEPWELL_VLLM_PULL_IMAGE": "vllm/vllm-openai-cpu:v0.30.0"}
        return values | {"DEEPWELL_CHAT__MODEL": architecture.repository} | context | pull
    if compose_service(found) != profiles[0]:
        raise BadRequest(f"the plan is for {compose_service(found)}, not for {profiles[0]}")
    model = ollama_tag(found) if engine == "ollama" else found.request.model.repository
    if not model:
        raise BadRequest(
            f"{wanted.model} in {found.quantization} is not in Ollama's library: take vllm, or another size"
        )
    pull = {"DEEPWELL_VLLM_PULL_IMAGE": f"vllm/vllm-openai:v{found.row.version}"} if engine == "vllm" else {}
    host = found.memory["in_main_memory"] if found.request.hardware.gpu is None else found.download
    return (
        values
        | pull
        | {
            "COMPOSE_FILE": f"{FILE}:{OVERLAY}",
            "DEEPWELL_CHAT__MODEL": model,
            "DEEPWELL_CHAT__CONTEXT": str(found.request.context),
            "DEEPWELL_MODEL_MEMORY": f"{max(4, math.ceil(host * 1.25 / GIB) + 2)}g",
            "DEEPWELL_GPUS": str(found.request.hardware.count or 1),
        }
    )


def write_secrets(root: Path, volumes: Sequence[str] = ()) -> list[str]:
    """Make the secrets that are not there yet; gives their names. `volumes` are those that Docker has of the project.

    Raises Conflict for one that is empty, or gone while a volume was made with it; StorageFull.
    """
    folder = root / SECRETS
    missing = [name for name in _SECRETS if not (folder / name).exists()]
    for name in _SECRETS:
        if name not in missing and not (folder / name).read_text().strip():
            raise Conflict(f"{SECRETS}/{name} is empty: write the secret into it, or remove it to have a new one made")
    for name in missing:
        if _BOUND.get(name) in volumes:
            raise Conflict(
                f"{SECRETS}/{name} is gone, and the volume {_BOUND[name]} was made with it: put the file back from "
                "your backup, or remove the volume and its data (`docker compose down --volumes` removes them all)"
            )
    with database_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in missing:
            _write(folder / name, _SECRETS[name] + secrets.token_urlsafe(30) + "\n", 0o444)
    return missing


def write_settings(root: Path, values: Mapping[str, str], found: Plan | None) -> None:
    """Write `.env`, lines of others kept, and the plan that lies over the Compose file. Raises StorageFull."""
    path = root / ENV
    before = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    kept = [line for line in before.splitlines() if line.partition("=")[0].strip() not in values]
    with database_errors():
        if found is not None:
            _write(root / OVERLAY, compose(found), 0o644)
        _write(path, "\n".join([*kept, *(f"{name}={value}" for name, value in values.items())]) + "\n", 0o644)


def settings_in(root: Path) -> dict[str, str]:
    """What `.env` says now."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (root / ENV).read_text(encoding="utf-8").splitlines():
            name, separator, value = line.partition("=")
            if separator and not name.startswith("#"):
                found[name.strip()] = value.strip()
    return found


def prepare(root: Path, wanted: Wanted, hardware: Hardware, volumes: Sequence[str] = ()) -> list[str]:
    """Write everything. Gives the profiles. Raises BadRequest and Conflict before anything is changed."""
    profiles = profiles_of(wanted, hardware)
    if wanted.profile == ELSEWHERE and not settings_in(root).get("DEEPWELL_CHAT__URL"):
        raise BadRequest(
            f"profile {ELSEWHERE} needs a model server elsewhere: write DEEPWELL_CHAT__SERVER, DEEPWELL_CHAT__URL and "
            f"DEEPWELL_CHAT__MODEL into {ENV}, its key into {SECRETS}/model_key"
        )
    found = planned(wanted, profiles[0], hardware) if wanted.profile != ELSEWHERE else None
    values = environment(wanted, profiles, found)
    write_secrets(root, volumes)
    write_settings(root, values, found)
    return profiles


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    new.chmod(mode)
    new.replace(path)
