"""Any process may die at any time: it is healed, or reported, and nothing that was stored is lost."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import BIN, Running, cli

CHILDREN = {
    "milvus": "connectors.lite_server",
    "model": "connectors.models.llamacpp",
    "service": "services.app",
    "worker": "services.worker",
}


def until(condition: Callable[[], bool], seconds: float = 240) -> float:
    """Wait for a condition; the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not healed in time"
        time.sleep(0.2)
    return time.monotonic() - began


def ready(deepwell: Running) -> bool:
    """Whether /readyz says that questions can be answered."""
    try:
        return httpx.get(f"{deepwell.url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def stored(deepwell: Running, tmp_path: Path) -> Running:
    """The platform with one document in it."""
    (tmp_path / "boiler.txt").write_text("The boiler room key hangs behind the green door.\n")
    deepwell.cli("add", str(tmp_path / "boiler.txt"), "--kb", "keys")
    return deepwell


@pytest.mark.parametrize("name", CHILDREN)
def test_a_killed_child_comes_back_and_nothing_is_lost(stored: Running, name: str, tmp_path: Path) -> None:
    before = stored.pid(CHILDREN[name])
    os.kill(before, signal.SIGKILL)

    def replaced() -> bool:
        try:
            return stored.pid(CHILDREN[name]) != before and ready(stored)
        except LookupError:
            return False

    until(replaced)
    hit = stored.cli("search", "where is the boiler room key", "--kb", "keys")["hits"][0]
    assert hit["document"] == "boiler.txt"
    (tmp_path / f"{name}.txt").write_text(f"After the {name} was killed, the canteen served pancakes.\n")
    added = stored.cli("add", str(tmp_path / f"{name}.txt"), "--kb", "keys")["documents"][0]
    assert added["state"] == "succeeded"


def test_readyz_names_the_part_that_is_away(stored: Running) -> None:
    os.kill(stored.pid(CHILDREN["model"]), signal.SIGKILL)
    seen: dict[str, str] = {}

    def named() -> bool:
        answer = httpx.get(f"{stored.url}/readyz", timeout=10)
        seen.update(answer.json()["parts"] if answer.status_code == 503 else {})
        return seen.get("model server", "ok") != "ok"

    until(named, 60)
    assert "model server" in seen["model server"]
    until(lambda: ready(stored))


def test_a_full_disk_is_said_and_the_rest_goes_on(stored: Running, tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("The attic holds nothing but boxes.\n" * 200_000)
    (tmp_path / "small.txt").write_text("The cellar holds the old printing press.\n")
    service, limit = stored.pid(CHILDREN["service"]), 5_000_000
    unlimited = resource.prlimit(service, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        added = stored.cli("add", str(tmp_path / "big.txt"), str(tmp_path / "small.txt"), "--kb", "keys", code=3)
    finally:
        resource.prlimit(service, resource.RLIMIT_FSIZE, unlimited)
    big, small = added["documents"]
    assert (big["state"], small["state"]) == ("failed", "succeeded")
    assert "disk" in big["error"] and "full" in big["error"]
    hits = [stored.cli("search", q, "--kb", "keys")["hits"][0]["document"] for q in ("boiler room key", "old press")]
    assert hits == ["boiler.txt", "small.txt"]
    again = stored.cli("add", str(tmp_path / "big.txt"), "--kb", "keys", "--no-wait")["documents"][0]
    assert again["state"] != "failed"
    stored.cli("rm", again["id"])  # embedding 7 MB takes minutes


@pytest.mark.timeout(900)  # embedding is nice: on a busy machine it gets a tenth of a core
def test_a_worker_killed_in_the_middle_of_a_job_goes_on(deepwell: Running, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(6):
        lines = "\n\n".join(
            f"Paragraph {j} of report {i} tells of pump {i * 100 + j} and its valve." for j in range(150)
        )
        (folder / f"report-{i}.md").write_text(f"# Report {i}\n\n{lines}\n")
    adding = subprocess.Popen(
        [str(BIN), "add", str(folder), "--kb", "pumps", "--json", "--data-dir", str(deepwell.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    documents = f"{deepwell.url}/v1/knowledge_bases/pumps/documents"
    headers = {"Authorization": f"Bearer {deepwell.key}"}

    def under_way() -> bool:
        answer = httpx.get(documents, headers=headers, timeout=10)
        if answer.status_code != 200:
            return False
        states = [d["state"] for d in answer.json()["documents"]]
        assert set(states) != {"succeeded"} or len(states) < 6, "all was done before anybody looked"
        return "succeeded" in states and bool({"queued", "running"} & set(states))

    until(under_way, 600)
    os.kill(deepwell.pid(CHILDREN["worker"]), signal.SIGKILL)
    output, _ = adding.communicate(timeout=600)
    assert adding.returncode == 0, output
    found = httpx.get(documents, headers=headers, timeout=10).json()["documents"]
    assert [d["state"] for d in found] == ["succeeded"] * 6
    # the same files again: identical content is free, so any difference would be a passage lost or doubled
    again = cli("add", str(folder), "--kb", "undisturbed", "--json", "--data-dir", str(deepwell.data_dir))
    assert again.returncode == 0
    undisturbed = httpx.get(documents.replace("pumps", "undisturbed"), headers=headers, timeout=10).json()["documents"]
    assert [d["chunks"] for d in found] == [d["chunks"] for d in undisturbed]
    for one in found:
        chunks = httpx.get(f"{deepwell.url}/v1/documents/{one['id']}/chunks?limit=1000", headers=headers).json()[
            "chunks"
        ]
        assert [c["position"] for c in chunks] == list(range(one["chunks"]))


def test_killing_the_platform_itself_leaves_no_child_behind(tmp_path: Path) -> None:
    from tests.e2e.conftest import start

    running = start(tmp_path / "data")
    children = [running.pid(module) for module in CHILDREN.values()]
    running.process.kill()
    running.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 60)
