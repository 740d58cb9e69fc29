"""kill -9 of each process at each step of an ingestion: the same passages as an undisturbed run, nothing twice."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import Running, start, stop
from tests.pdfs import pdf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROCESSES = {
    "service": "services.app",
    "worker": "services.worker",
    "parser": "services.parsing",
    "milvus": "connectors.lite_server",
    "model": "connectors.models.llamacpp",
}
STEPS = ("parsing", "splitting", "embedding", "finishing")
PAGES = 100


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Platform"]:
    """A platform of its own: its processes are killed all the time."""
    running = start(tmp_path_factory.mktemp("matrix") / "data")
    try:
        platform = Platform(running)
        platform.chunks = platform.passages(platform.ended(platform.add("calm", 0)))
        assert len(platform.chunks) >= PAGES
        yield platform
    finally:
        stop(running)


class Platform:
    """A running Deepwell that may be away for a moment."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.chunks: list[tuple[int, str]] = []
        headers = {"Authorization": f"Bearer {running.key}"}
        self._http = httpx.Client(base_url=f"{running.url}/v1", headers=headers, timeout=60, trust_env=False)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer, as soon as there is one."""
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = self._http.request(method, path, **more)
                if answer.status_code < 500:
                    return answer.json()
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{path} is not answered"
            time.sleep(0.2)

    def add(self, base: str, number: int) -> dict[str, Any]:
        """A book of many pages, each time another one."""
        self.ask("POST", "/knowledge_bases", json={"name": base})
        book = pdf(*(line(page) for page in range(PAGES))) + f"%{number}\n".encode()
        added: dict[str, Any] = self.ask("POST", f"/knowledge_bases/{base}/documents", files={"file": ("a.pdf", book)})
        return dict(added["documents"][0])

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """How it is now."""
        return dict(self.ask("GET", f"/documents/{document['id']}"))

    def ended(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document once its job has ended well."""
        deadline = time.monotonic() + 600
        while (found := self.document(document))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        assert found["state"] == "succeeded", found
        return found

    def passages(self, document: dict[str, Any]) -> list[tuple[int, str]]:
        """Its passages in order, without ids: those hold the knowledge base."""
        answer = self.ask("GET", f"/documents/{document['id']}/chunks", params={"limit": 10_000})
        return [(chunk["position"], chunk["text"]) for chunk in answer["chunks"]]

    def kill(self, module: str) -> bool:
        """Whether there was such a process."""
        for process in psutil.Process(self.running.process.pid).children(recursive=True):
            try:
                if module in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    return True
            except (psutil.Error, ProcessLookupError):
                continue
        return False


def line(page: int) -> str:
    words = " ".join(f"word{(page * 7919 + n * 104729) % 99991}" for n in range(60))
    return f"Page {page} tells of {words}."


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("process", PROCESSES)
def test_kill_9(calm: Platform, process: str, step: str) -> None:
    base = f"{process}-{step}"
    document = calm.add(base, abs(hash(base)) % 10_000)
    deadline = time.monotonic() + 300
    while (found := calm.document(document))["step"] != step and found["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    hit = found["step"] == step and calm.kill(PROCESSES[process])
    ended = calm.ended(document)
    assert calm.passages(ended) == calm.chunks
    removed = calm.ask("DELETE", f"/documents/{document['id']}")
    assert removed["receipt"]["vectors"] == removed["receipt"]["words"] == {"before": len(calm.chunks), "after": 0}
    if not hit:
        pytest.skip(f"the step {step} was over, or there was no {process}, before it could be killed")


def test_a_thousand_files_with_a_bad_one_among_them(calm: Platform, tmp_path: Path) -> None:
    calm.ask("POST", "/knowledge_bases", json={"name": "thousand"})
    for number in range(1000):
        name, content = f"{number}.txt", f"File {number} holds the word w{number}x.".encode()
        if number in (300, 700):
            name, content = f"{number}.pdf", b"%PDF-1.7\n" + b"garbage " * 200
        calm.ask("POST", "/knowledge_bases/thousand/documents", files={"file": (name, content)})
    deadline = time.monotonic() + 1500
    while set(states := calm.ask("GET", "/knowledge_bases/thousand")["states"]) - {"succeeded", "failed"}:
        assert time.monotonic() < deadline, states
        time.sleep(1)
    assert states == {"failed": 2, "succeeded": 998}
    letters = calm.ask("GET", "/jobs", params={"knowledge_base": "thousand", "state": ["failed", "dead"]})["jobs"]
    assert [(one["document"], "damaged" in one["error"]) for one in letters] == [("300.pdf", True), ("700.pdf", True)]
