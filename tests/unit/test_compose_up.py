"""`deepwell compose up`: what it writes, what it refuses and in which words, and that Compose takes what it wrote."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.errors import BadRequest, Conflict, NotFound, RagError, Unavailable
from pipelines.planner.hardware import GIB, Hardware, described
from services import compose
from services.cli import app
from services.compose import Wanted
from services.docker import Docker

ROOT = Path(__file__).parents[2]
COMPOSE = Path(sys.executable).parent / "docker-compose"
NO_GPU = Hardware(ram=32 * GIB)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout to write into."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / "deploy").mkdir()
    return tmp_path


def resolved(checkout: Path) -> dict[str, dict[str, object]]:
    """What Compose makes of `.env` and the files that it names."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DEEPWELL_", "COMPOSE_"))}
    command = [COMPOSE, "config", "--format", "json"]
    done = subprocess.run(command, cwd=checkout, env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, object]] = json.loads(done.stdout)["services"]
    return services


def test_secrets_are_made_once_and_nobody_else_reaches_them(checkout: Path) -> None:
    made = compose.write_secrets(checkout)
    folder = checkout / "deploy" / "secrets"
    assert sorted(made) == sorted(path.name for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(set(first.values())) == len(first) and all(len(text) > 40 for text in first.values())
    assert first["milvus_token"].startswith("root:") and first["client_key"].startswith("dw-")
    (folder / "model_key").unlink()
    assert compose.write_secrets(checkout) == ["model_key"]
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in first if first[name] != again[name]} == {"model_key"}


def test_the_secrets_are_those_of_the_compose_file() -> None:
    import yaml

    named = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["secrets"]
    assert set(named) == set(compose._SECRETS)


def test_a_secret_that_is_empty_or_lost_is_not_replaced_in_silence(checkout: Path) -> None:
    compose.write_secrets(checkout)
    path = checkout / "deploy" / "secrets" / "postgres_password"
    path.chmod(0o644)
    path.write_text("\n")
    with pytest.raises(Conflict, match=r"deploy/secrets/postgres_password is empty"):
        compose.write_secrets(checkout)
    path.unlink()
    with pytest.raises(Conflict, match=r"postgres_password is gone, and the volume postgres was made with it"):
        compose.write_secrets(checkout, volumes=["data", "postgres"])
    assert not path.exists()
    assert compose.write_secrets(checkout, volumes=["data"]) == ["postgres_password"]


@pytest.mark.parametrize(
    ("wanted", "hardware", "service"),
    [
        (Wanted(profile="ollama"), NO_GPU, "ollama-cpu"),
        (Wanted(profile="ollama", context=8192, users=2), described("1xH100"), "ollama-gpu"),
        (Wanted(profile="vllm", more=["webui"]), described("4xA100-80GB"), "vllm-gpu"),
        (Wanted(profile="vllm", model="deepseek-r1:32b", gpus=4), described("8xA100-80GB"), "vllm-gpu"),
        (Wanted(profile="vllm-gpu"), described("4xV100-32GB"), "vllm-gpu"),
        (Wanted(profile="vllm-cpu", model="deepseek-r1:1.5b"), NO_GPU, "vllm-cpu"),
        (
            Wanted(profile="ollama-cpu", more=["webui", "observability"]),
            described("1xH100", ram=64 * GIB),
            "ollama-cpu",
        ),
    ],
    ids=str,
)
def test_what_it_writes_is_valid_and_planned(checkout: Path, wanted: Wanted, hardware: Hardware, service: str) -> None:
    profiles = compose.prepare(checkout, wanted, hardware)
    assert profiles == [service, *wanted.more]
    services = resolved(checkout)
    model = services[service]
    said = json.dumps(model)
    environment = services["service"]["environment"]
    assert isinstance(environment, dict)
    assert environment["DEEPWELL_CHAT__SERVER"] == service.partition("-")[0]
    if service.startswith("vllm"):
        assert environment["DEEPWELL_CHAT__MODEL"] in json.dumps(model["command"])
    else:
        assert f'"OLLAMA_CONTEXT_LENGTH": "{environment["DEEPWELL_CHAT__CONTEXT"]}"' in said
    assert ("device_ids" in said) == service.endswith("-gpu")
    if wanted.gpus:
        assert said.count('"device_ids": ["0", "1", "2", "3"]') == 1, "the plan's GPUs, and no others beside them"
    limit = int(model["deploy"]["resources"]["limits"]["memory"]) / GIB  # type: ignore[index]
    assert limit == pytest.approx({"ollama-cpu": 10, "ollama-gpu": 8, "vllm-cpu": 48}.get(service, limit), abs=1)
    assert model["read_only"] is True and "healthcheck" in model, "what lies over the file takes nothing away"
    assert ("open-webui" in services) == ("webui" in wanted.more)
    assert "secret" not in (checkout / ".env").read_text().lower().replace("no secrets: those are", "").replace(
        "deploy/secrets", ""
    )


def test_lines_of_ones_own_in_env_are_kept(checkout: Path) -> None:
    (checkout / ".env").write_text("# mine\nDEEPWELL_PORT=8200\nDEEPWELL_CHAT__MODEL=old\n")
    compose.prepare(checkout, Wanted(profile="ollama"), NO_GPU)
    settings = compose.settings_in(checkout)
    assert (settings["DEEPWELL_PORT"], settings["DEEPWELL_CHAT__MODEL"]) == ("8200", "deepseek-r1:7b")
    assert (checkout / ".env").read_text().startswith("# mine\n")
    published = resolved(checkout)["service"]["ports"]
    assert isinstance(published, list)
    assert published[0]["published"] == "8200"


@pytest.mark.parametrize(
    ("wanted", "hardware", "words"),
    [
        (Wanted(profile="olama"), NO_GPU, r"no profile 'olama'; there are: ollama, vllm, ollama-cpu"),
        (Wanted(profile="ollama", more=["grafana"]), NO_GPU, r"no profile 'grafana' to put on top.*observability"),
        (Wanted(profile="vllm-gpu"), NO_GPU, r"needs a GPU, and nvidia-smi shows none.*vllm-cpu"),
        (Wanted(profile="vllm", gpus=3), described("2xH100"), r"3 GPUs are asked for, and this machine has 2"),
        (Wanted(profile="vllm", model="deepseek-r1:671b"), described("1xH100"), r"671b"),
        (Wanted(profile="ollama", model="deepseek-r1:9b"), NO_GPU, r"deepseek-r1:9b"),
        (Wanted(profile="ollama-cpu"), Hardware(ram=2 * GIB), r"."),
        (Wanted(profile="none"), NO_GPU, r"DEEPWELL_CHAT__URL.*into \.env"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_written(
    checkout: Path, wanted: Wanted, hardware: Hardware, words: str
) -> None:
    before = sorted(checkout.rglob("*"))
    with pytest.raises(BadRequest, match=words):
        compose.prepare(checkout, wanted, hardware)
    assert sorted(checkout.rglob("*")) == before


def test_a_model_server_elsewhere(checkout: Path) -> None:
    (checkout / ".env").write_text("DEEPWELL_CHAT__SERVER=openai\nDEEPWELL_CHAT__URL=https://models.example/v1\n")
    assert compose.prepare(checkout, Wanted(profile="none", more=["webui"]), NO_GPU) == ["webui"]
    services = resolved(checkout)
    assert not any(name.startswith(("ollama", "vllm", "pull")) for name in services)
    environment = services["service"]["environment"]
    assert isinstance(environment, dict)
    assert environment["DEEPWELL_CHAT__URL"] == "https://models.example/v1"


def test_the_command_prepares(checkout: Path) -> None:
    done = CliRunner().invoke(app, ["compose", "up", "vllm-cpu", "--prepare", "--json", "--directory", str(checkout)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["profiles"], found["started"]) == (["vllm-cpu"], False)
    assert found["settings"]["DEEPWELL_CHAT__MODEL"] == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert compose.project(checkout) == checkout


def test_a_directory_without_our_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "__file__", str(tmp_path / "site-packages" / "services" / "compose.py"))
    with pytest.raises(NotFound, match=r"no docker-compose\.yml of Deepwell in"):
        compose.project(tmp_path)


# -- Docker: what is missing is provoked by a program of that name ----------------------------------------------------

INFO = {"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, **answers: str) -> Docker:
    """A `docker` that answers `version`, `info`, `ps` and `up` as given; the rest succeeds in silence."""
    script = ["#!/bin/sh", 'case "$*" in']
    for words, answer in answers.items():
        script.append(f"*{words}*) {answer} ;;")
    script.append("esac")
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    program.write_text("\n".join(script) + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return Docker(folder)


def test_docker_is_missing_or_asleep_or_old_or_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"version": "exit 1"}, r"docker compose 2\.24 or newer is needed, there is none.*docker-compose-plugin"),
        ({"version": "echo 2.19.1"}, r"is needed, this is 2\.19"),
        (
            {"version": "echo 2.40.3", "info": "echo cannot connect >&2; exit 1"},
            r"daemon does not answer \(cannot connect",
        ),
        (
            {"version": "echo 2.40.3", "info": f"echo '{json.dumps(INFO)}'"},
            r"cannot give GPUs to containers: install the NVIDIA Container Toolkit",
        ),
    ]
    for number, (answers, words) in enumerate(cases):
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(Unavailable, match=words):
            docker(folder, monkeypatch, **answers).check(["vllm-gpu"])
    Docker(tmp_path).check(["ollama-cpu"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no `docker` on this machine"):
        Docker(tmp_path).check([])


def test_a_port_that_another_program_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = {"DEEPWELL_PORT": str(port)}
        with pytest.raises(Conflict, match=rf"port {port} of 127\.0\.0\.1 is taken.*DEEPWELL_PORT={port + 1}"):
            docker(tmp_path, monkeypatch).check_ports([], settings)
        (tmp_path / "ours").mkdir()
        ours = json.dumps({"Service": "service", "State": "running"})
        docker(tmp_path / "ours", monkeypatch, ps=f"echo '{ours}'").check_ports([], settings)
        settings = {"DEEPWELL_PORT": "0", "DEEPWELL_WEBUI_PORT": str(port)}
        with pytest.raises(Conflict, match="DEEPWELL_WEBUI_PORT"):
            Docker(tmp_path).check_ports(["webui"], settings)


def test_what_did_not_start_is_named_with_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"Service": "postgres", "State": "running", "Health": "healthy", "ExitCode": 0},
        {"Service": "own-volumes", "State": "exited", "Health": "", "ExitCode": 0},
        {"Service": "milvus", "State": "running", "Health": "unhealthy", "ExitCode": 0},
    ]
    shown = "; ".join(f"echo '{json.dumps(line)}'" for line in lines)
    found = docker(tmp_path, monkeypatch, up="exit 1", ps=shown, logs="echo cannot reach etcd")
    with pytest.raises(Unavailable, match=r"milvus is not ready \(unhealthy\)\. The end .*:\n  cannot reach etcd"):
        found.up(5)
    lines[2] = {"Service": "pull-ollama", "State": "exited", "Health": "", "ExitCode": 1}
    shown = "; ".join(f"echo '{json.dumps(line)}'" for line in lines)
    (tmp_path / "pull").mkdir()
    found = docker(tmp_path / "pull", monkeypatch, ps=shown, logs="echo no such model")
    with pytest.raises(Unavailable, match=r"pull-ollama is not ready \(ended with exit code 1\)"):
        found.pull_model("ollama-cpu")
    assert issubclass(Unavailable, RagError)
