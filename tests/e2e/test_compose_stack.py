"""docker-compose.yml brought up by `deepwell compose up` on a real Docker engine, with stand-ins for what has to be
pulled (tests/files/docker): it answers, and every service may be restarted in the middle of a job.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import docker_engine

ROOT = Path(__file__).parents[2]
PARTS = ["docker-compose.yml", "deploy", "pipelines", "connectors", "services", "samples", "pyproject.toml",
         "constraints.txt", "README.md", "LICENSE", "NOTICE", ".dockerignore"]  # fmt: skip
PASSAGES = 60


@dataclass
class Stack:
    """A started stack, reached as its users reach it."""

    directory: Path
    environment: dict[str, str]
    url: str
    key: str = ""
    base: str = "stack"

    def docker(self, *arguments: str) -> str:
        """Run `docker compose` in it; what it prints."""
        done = subprocess.run(
            ["docker", "compose", *arguments], cwd=self.directory, env=self.environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Health of what has one, else its state, by service."""
        found = [json.loads(line) for line in self.docker("ps", "--all", "--format", "json").splitlines()]
        return {one["Service"]: one["Health"] or one["State"] for one in found}

    def call(self, method: str, path: str, **request: Any) -> Any:
        """A request with the operator's key; waits while the service is away."""
        headers, deadline = {"Authorization": f"Bearer {self.key}"}, time.monotonic() + 300
        while True:
            try:
                answer = httpx.request(
                    method, self.url + path, headers=headers, timeout=120, trust_env=False, **request
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500:
                assert answer.status_code < 400, answer.text
                return answer.json()
            assert time.monotonic() < deadline, answer.text if answer is not None else "no answer"
            time.sleep(1)

    def add(self, name: str) -> dict[str, Any]:
        """Add a document of PASSAGES paragraphs that names itself in each."""
        lines = [f"{name} paragraph {n}: " + " ".join(f"{name}{n}word{w}" for w in range(40)) for n in range(PASSAGES)]
        file = {"file": (f"{name}.txt", "\n\n".join(lines).encode(), "text/plain")}
        added: dict[str, Any] = self.call("POST", f"/v1/knowledge_bases/{self.base}/documents", files=file)[
            "documents"
        ][0]
        return added

    def document(self, added: dict[str, Any]) -> dict[str, Any]:
        """How a document is now."""
        documents = self.call("GET", f"/v1/knowledge_bases/{self.base}/documents")["documents"]
        return next(one for one in documents if one["id"] == added["id"])

    def until(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.states()}\n{self.docker('logs', '--tail', '20')}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, brought up by the command that people use."""
    docker_engine.tools()
    folder = tmp_path_factory.mktemp("engine")
    with docker_engine.engine(folder) as environment:
        docker_engine.images(folder, environment)
        project = folder / "project"
        project.mkdir()
        for name in PARTS:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, project / name)
        shutil.copy(docker_engine.STAND_INS / "stand-ins.yaml", project)
        environment |= {
            "COMPOSE_FILE": "docker-compose.yml:deploy/model.yaml:stand-ins.yaml",
            "STAND_IN_BASE": docker_engine.BASE,
            "STAND_IN_POSTGRES": docker_engine.POSTGRES,
            "DEEPWELL_CHAT__SERVER": "llamacpp",
            "DEEPWELL_CHAT__MODEL": "smollm2-135m-stand-in",
            "DEEPWELL_CHAT__CONTEXT": "4096",
        }
        (project / ".env").write_text("DEEPWELL_PORT=18177\n")
        done = subprocess.run(
            [Path(sys.executable).with_name("deepwell"), "compose", "up", "ollama-cpu", "--directory", project],
            env=environment, capture_output=True, text=True, timeout=1500, check=False,
        )  # fmt: skip
        found = Stack(project, environment, "http://127.0.0.1:18177")
        try:
            assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert "27 days of paid annual leave" in done.stdout, "the question over the samples is answered"
            found.key = found.docker("exec", "-T", "service", "cat", "/data/api-key").strip()
            yield found
        finally:
            subprocess.run(
                ["docker", "compose", "down", "--volumes", "--timeout", "5"], cwd=project, env=environment, check=False
            )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_service_may_be_restarted_in_the_middle_of_a_job(stack: Stack) -> None:
    survives(stack)


def survives(stack: Stack) -> None:
    """Kill or restart each service while a document is embedded; nothing is lost, nothing is there twice."""
    ready = {"service", "worker", "postgres", "milvus", "ollama-cpu"}
    assert {name for name, state in stack.states().items() if state == "healthy"} == ready
    stack.call("POST", "/v1/knowledge_bases", json={"name": stack.base})
    whole = stack.add("undisturbed")
    stack.until(lambda: stack.document(whole)["state"] == "succeeded")
    chunks = stack.document(whole)["chunks"]
    assert chunks >= PASSAGES / 4
    for number, service in enumerate(["worker", "postgres", "milvus", "ollama-cpu", "service"]):
        name = f"disturbed{'abcde'[number]}"
        added = stack.add(name)
        stack.until(lambda added=added: stack.document(added)["step"] in ("embedding", "finishing", "done"))
        stack.docker("kill", service) if service != "postgres" else stack.docker("restart", "--timeout", "5", service)
        if service != "postgres":  # what an operator killed is not started again by its restart policy
            stack.docker("start", service)
        stack.until(lambda added=added: stack.document(added)["state"] not in ("queued", "running"))
        done = stack.document(added)
        assert (done["state"], done["error"], done["chunks"]) == ("succeeded", None, chunks), service
        stack.until(lambda: set(stack.states().values()) <= {"healthy", "exited"})
        word = f"{name}{PASSAGES // 2}word7"
        hits = stack.call("POST", "/v1/search", json={"query": word, "knowledge_bases": [stack.base]})["hits"]
        assert word in hits[0]["text"], service
        assert len({hit["chunk_id"] for hit in hits}) == len(hits)
    answer = stack.call("POST", "/v1/ask", json={"question": "What does disturbedc paragraph 3 say?"})
    assert answer["citations"]
