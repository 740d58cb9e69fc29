"""docker-compose.yml, as the real Docker Compose resolves it, for every combination of profiles; and the Dockerfile."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MODEL_SERVERS = ["", "ollama-cpu", "ollama-gpu", "vllm-cpu", "vllm-gpu"]
MORE = ["webui", "observability"]
COMBINATIONS = [
    [name for name in (server, *more) if name]
    for server in MODEL_SERVERS
    for count in range(len(MORE) + 1)
    for more in itertools.combinations(MORE, count)
]
STEPS = {"own-volumes", "pull-ollama", "pull-vllm"}
#: published ports: the service's address is a choice, the others are for this machine
PUBLISHED = {"service": "8100", "open-webui": "8080", "grafana": "3000"}


def resolved(*profiles: str, **environ: str) -> dict[str, Any]:
    """The project as Compose understands it."""
    chosen = [argument for name in profiles for argument in ("--profile", name)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DEEPWELL_", "COMPOSE_"))}
    done = subprocess.run(
        [BIN / "docker-compose", "-f", ROOT / "docker-compose.yml", "--env-file", os.devnull, *chosen,
         "config", "--format", "json"],
        cwd=ROOT, env=clean | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not set" not in done.stderr, done.stderr
    project: dict[str, Any] = json.loads(done.stdout)
    return project


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    """All services at once."""
    project = resolved("*")
    assert len(project["services"]) == 16
    return project


@pytest.mark.parametrize("profiles", COMBINATIONS, ids="+".join)
def test_every_combination_of_profiles_is_valid(profiles: list[str]) -> None:
    services = resolved(*profiles)["services"]
    assert {"service", "worker", "postgres", "milvus", "etcd", "minio"} <= set(services)
    assert ("open-webui" in services) == ("webui" in profiles)
    assert ("grafana" in services) == ("prometheus" in services) == ("observability" in profiles)
    models = [name for name, one in services.items() if "model" in aliases(one)]
    assert models == [name for name in profiles if name in MODEL_SERVERS], "one model server, of the profile's name"


def aliases(service: dict[str, Any]) -> list[str]:
    networks = service.get("networks") or {}
    return [alias for network in networks.values() if network for alias in network.get("aliases", [])]


def test_everything_is_hardened_limited_watched_and_restarted(every: dict[str, Any]) -> None:
    for name, service in every["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "seccomp:unconfined" not in service["security_opt"], name
        assert not service.get("privileged"), name
        assert int(service["deploy"]["resources"]["limits"]["memory"]) >= 100 << 20, name
        assert service["deploy"]["resources"]["limits"]["pids"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        if name in STEPS:
            assert service["restart"] == "on-failure:3", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name
            assert not service.get("cap_add"), name
        if name != "own-volumes":
            uid, _, _ = service["user"].partition(":")
            assert int(uid) > 0, f"{name} runs as root"
    own = every["services"]["own-volumes"]
    assert (own["network_mode"], own["cap_add"]) == ("none", ["CHOWN", "DAC_READ_SEARCH"])


def test_images_are_pinned(every: dict[str, Any]) -> None:
    for name, service in every["services"].items():
        _, _, tag = service["image"].rpartition(":")
        assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", tag), f"{name}: {service['image']}"
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-", dockerfile, re.MULTILINE)


def test_ports_are_loopback_but_the_services_on_request(every: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in every["services"].items() if service.get("ports")}
    assert {name: str(port["target"]) for name, (port,) in published.items()} == PUBLISHED
    assert all(port["host_ip"] == "127.0.0.1" for (port,) in published.values())
    opened = resolved("*", DEEPWELL_BIND="0.0.0.0")["services"]
    assert opened["service"]["ports"][0]["host_ip"] == "0.0.0.0"
    assert opened["open-webui"]["ports"][0]["host_ip"] == opened["grafana"]["ports"][0]["host_ip"] == "127.0.0.1"


def test_no_password_is_written_anywhere(every: dict[str, Any]) -> None:
    for name, service in every["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable) and variable != "MINIO_ACCESS_KEY_ID"
            assert not secret or (variable.endswith("_FILE") and value.startswith("/run/secrets/")), (name, variable)
        for mounted in service.get("secrets", []):
            assert mounted["source"] in every["secrets"]
    for name, secret in every["secrets"].items():
        assert Path(secret["file"]).relative_to(ROOT) == Path("deploy/secrets", name)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/deploy/secrets/", "/.env", "/deploy/model.yaml"} <= set(ignored)
    named = set(re.findall(r"/run/secrets/(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert named == set(every["secrets"])


def test_each_secret_is_mounted_where_it_is_read(every: dict[str, Any]) -> None:
    for name, service in every["services"].items():
        said = json.dumps([service.get("environment"), service.get("entrypoint"), service.get("command")])
        read = set(re.findall(r"/run/secrets/(\w+)", said))
        assert read == {mounted["source"] for mounted in service.get("secrets", [])}, name


def test_start_order(every: dict[str, Any]) -> None:
    services = every["services"]

    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in services[name].get("depends_on", {}).items()}

    healthy, ended = "service_healthy", "service_completed_successfully"
    assert waits("service") == dict.fromkeys(["postgres", "milvus", *MODEL_SERVERS[1:]], healthy)
    assert waits("worker") == {"postgres": healthy, "milvus": healthy}
    assert waits("milvus") == {"etcd": healthy, "minio": healthy}
    assert waits("ollama-gpu") == {"pull-ollama": ended}
    assert waits("vllm-gpu") == {"pull-vllm": ended}
    assert waits("open-webui") == {"service": healthy, "own-volumes": ended}
    for name in ("etcd", "minio", "pull-ollama", "pull-vllm"):
        assert waits(name) == {"own-volumes": ended}


def test_only_steps_that_pull_and_what_users_reach_see_the_outside(every: dict[str, Any]) -> None:
    inside = {name for name, network in every["networks"].items() if network and network.get("internal")}
    assert inside == {"back", "vectors"}
    outside = {
        name
        for name, service in every["services"].items()
        if set(service.get("networks") or {}) - inside and service.get("network_mode") != "none"
    }
    assert outside == {"service", "worker", "pull-ollama", "pull-vllm", "open-webui", "grafana"}


def test_gpus_are_reserved_by_the_gpu_profiles_alone(every: dict[str, Any]) -> None:
    for name, service in resolved("*", DEEPWELL_GPUS="4")["services"].items():
        devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        assert [device["count"] for device in devices] == ([4] if name.endswith("-gpu") else []), name


def test_open_webui_is_wired_and_keeps_no_settings_of_its_own(every: dict[str, Any]) -> None:
    service = every["services"]["open-webui"]
    assert service["environment"]["OPENAI_API_BASE_URL"] == "http://service:8100/v1"
    assert service["environment"]["ENABLE_PERSISTENT_CONFIG"] == "False"
    assert service["environment"]["ENABLE_FORWARD_USER_INFO_HEADERS"] == "True"
    assert "client_key" in json.dumps(service["entrypoint"])
    assert every["services"]["service"]["environment"]["DEEPWELL_KEYS__CLIENT_FILE"] == "/run/secrets/client_key"


def test_the_settings_of_the_containers_are_settings(every: dict[str, Any], tmp_path: Path) -> None:
    from services.settings import load_settings

    environ = dict(every["services"]["service"]["environment"])
    for name in every["secrets"]:
        (tmp_path / name).write_text(f"secret-of-{name}-that-is-long-enough\n")
    environ = {name: str(value).replace("/run/secrets", str(tmp_path)) for name, value in environ.items()}
    settings = load_settings(environ=environ)
    assert settings.store_url() == (
        "postgresql://deepwell:secret-of-postgres_password-that-is-long-enough@postgres:5432/deepwell"
    )
    assert settings.chat.server == "ollama"


def test_what_is_mounted_is_there(every: dict[str, Any]) -> None:
    for service in every["services"].values():
        for volume in service.get("volumes", []):
            assert volume["type"] != "bind" or Path(volume["source"]).is_file(), volume


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", ROOT / "deploy" / "Dockerfile"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
