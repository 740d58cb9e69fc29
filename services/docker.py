"""Docker, as `deepwell compose up` drives it: is it there, is it fit, and what does it say when a start fails."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import Conflict, Unavailable
from services.doctor_host import COMPOSE, output, version
from services.doctor_network import port_is_free

#: service -> the setting of its published port, and what it is otherwise
PORTS = {
    "service": ("DEEPWELL_PORT", 8100),
    "open-webui": ("DEEPWELL_WEBUI_PORT", 3000),
    "grafana": ("DEEPWELL_GRAFANA_PORT", 3001),
}
_OF_PROFILE = {"webui": "open-webui", "observability": "grafana"}
#: lines of a container's log that are shown when it does not start
LINES = 15
#: seconds between two looks at a container that is to end
POLL_SECONDS = 1.0


class Docker:
    """`docker compose` in a project's directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, profiles: Sequence[str]) -> None:
        """Raises Unavailable if Docker or its daemon is not there, or is not fit for these profiles."""
        if shutil.which("docker") is None:
            raise Unavailable("there is no `docker` on this machine: install Docker Engine with its Compose plugin")
        if (found := version(output(["docker", "compose", "version", "--short"]))) is None or found < COMPOSE:
            have = "there is none" if found is None else f"this is {'.'.join(map(str, found))}"
            wanted = ".".join(map(str, COMPOSE))
            raise Unavailable(f"docker compose {wanted} or newer is needed, {have}: install docker-compose-plugin")
        done = self._run("docker", "info", "--format", "{{json .}}")
        said = _json(done.stdout)
        if done.returncode or said.get("ServerErrors") or not said.get("ServerVersion"):
            why = (said.get("ServerErrors") or [done.stderr.strip() or "no answer"])[0]
            raise Unavailable(
                f"Docker's daemon does not answer ({why}): `systemctl enable --now docker`, or join docker's group"
            )
        gpu = any(name.endswith("-gpu") for name in profiles)
        described = [path for folder in said.get("CDISpecDirs") or () for path in Path(folder).glob("nvidia*")]
        if gpu and "nvidia" not in said.get("Runtimes", {}) and not described:
            raise Unavailable(
                "Docker cannot give GPUs to containers: install the NVIDIA Container Toolkit, then "
                "`nvidia-ctk runtime configure --runtime=docker` and restart Docker"
            )

    def check_ports(self, profiles: Sequence[str], settings: Mapping[str, str]) -> None:
        """Raises Conflict for a port that another program has; ours may have it already."""
        running = {one["Service"] for one in self.containers() if one.get("State") == "running"}
        for service in ("service", *(_OF_PROFILE[name] for name in profiles if name in _OF_PROFILE)):
            name, default = PORTS[service]
            number = int(settings.get(name) or default)
            host = settings.get("DEEPWELL_BIND", "127.0.0.1") if service == "service" else "127.0.0.1"
            if service not in running and not port_is_free(host, number):
                raise Conflict(
                    f"port {number} of {host} is taken by another program: end it, or write {name}={number + 1} "
                    "into .env"
                )

    def volumes(self) -> list[str]:
        """Volumes of the project that are there, by their names in the Compose file."""
        label = "com.docker.compose"
        done = self._run(
            "docker", "volume", "ls", "--filter", f"label={label}.project=deepwell", "--format",
            f'{{{{.Label "{label}.volume"}}}}',
        )  # fmt: skip
        return done.stdout.split()

    def containers(self) -> list[dict[str, Any]]:
        """Containers of the project, ended ones too, as `docker compose ps` gives them."""
        done = self._run("docker", "compose", "ps", "--all", "--format", "json")
        lines = done.stdout.strip()
        if lines.startswith("["):  # before Compose 2.21 one array
            return list(json.loads(lines))
        return [json.loads(line) for line in lines.splitlines()]

    def validate(self) -> None:
        """Raises Conflict with Compose's own words if the files are not valid together."""
        done = self._run("docker", "compose", "config", "--quiet")
        if done.returncode:
            raise Conflict(f"docker-compose.yml and .env do not fit together: {done.stderr.strip()}")

    def build(self) -> None:
        """Build our image, its output shown. Raises Unavailable."""
        if self._show("docker", "compose", "build", "service"):
            raise Unavailable("the image could not be built: the lines above say why")

    def pull_model(self, profile: str) -> None:
        """Run the step that brings the model, its progress shown. Raises Unavailable if it fails."""
        step = f"pull-{profile.partition('-')[0]}"
        if self._show("docker", "compose", "up", "--detach", step):
            self._fail_on(*(one["Service"] for one in self.containers()))
            raise Unavailable(f"{step}, which brings the model, could not be started: the lines above say why")
        self._follow(step)
        self._fail_on(step)

    def _follow(self, service: str) -> None:
        """Show the log of a container until it has ended. (`logs --follow` may wait for ever for one that has.)"""
        shown = ""
        while True:
            states = {one["Service"]: one["State"] for one in self.containers()}
            log = self._run("docker", "compose", "logs", "--no-color", "--no-log-prefix", service).stdout
            sys.stdout.write(log[len(shown) :] if log.startswith(shown) else log)
            sys.stdout.flush()
            shown = log
            if states.get(service) in (None, "exited", "dead"):
                return
            time.sleep(POLL_SECONDS)

    def up(self, seconds: int) -> None:
        """Start everything and wait until it is ready. Raises Unavailable with the logs of what is not."""
        if self._show("docker", "compose", "up", "--detach", "--wait", "--wait-timeout", str(seconds)):
            self._fail_on(*(one["Service"] for one in self.containers()))
            raise Unavailable(f"the stack is not ready after {seconds} s: `docker compose ps` shows how it is")

    def run_in_service(self, *command: str) -> int:
        """Run a command inside the running service, its output shown. Gives its exit code."""
        return self._show("docker", "compose", "exec", "--no-TTY", "service", *command)

    def _fail_on(self, *services: str) -> None:
        """Raises Unavailable for the first of these services that is not well, with the end of its log."""
        for one in self.containers():
            ended = one.get("State") in ("exited", "dead") and one.get("ExitCode")
            if one["Service"] in services and (
                ended or one.get("Health") == "unhealthy" or one.get("State") == "restarting"
            ):
                how = f"ended with exit code {one['ExitCode']}" if ended else one.get("Health") or one["State"]
                log = self._run("docker", "compose", "logs", "--no-log-prefix", "--tail", str(LINES), one["Service"])
                lines = "\n  ".join((log.stdout or log.stderr).strip().splitlines())
                raise Unavailable(f"{one['Service']} is not ready ({how}). The end of its log:\n  {lines}")

    def _run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, cwd=self._root, capture_output=True, text=True, timeout=120, check=False)

    def _show(self, *command: str) -> int:
        return subprocess.run(command, cwd=self._root, check=False).returncode


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
