"""Progress and control of ingestion over REST, server-sent events and the command line."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Running, cli


@pytest.fixture(scope="module")
def api(deepwell: Running) -> httpx.Client:
    """Deepwell's REST API with the operator's key."""
    headers = {"Authorization": f"Bearer {deepwell.key}"}
    return httpx.Client(base_url=f"{deepwell.url}/v1", headers=headers, timeout=120, trust_env=False)


def report(path: Path, paragraphs: int) -> Path:
    lines = (f"Paragraph {n} of the report tells of pump {n} and of its valve." for n in range(paragraphs))
    path.write_text("# Report\n\n" + "\n\n".join(lines) + "\n")
    return path


def events(api: httpx.Client, path: str) -> list[tuple[str, dict[str, Any]]]:
    """Every event of a stream, until its end."""
    found, name = [], ""
    with api.stream("GET", path) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
    return found


def test_a_job_is_followed_to_its_end(deepwell: Running, api: httpx.Client, tmp_path: Path) -> None:
    added = deepwell.cli("add", str(report(tmp_path / "report.md", 400)), "--kb", "pumps", "--no-wait")
    job = api.get(f"/documents/{added['documents'][0]['id']}").json()["job"]
    of_base = events(api, "/knowledge_bases/pumps/events")
    seen = events(api, f"/jobs/{job}/events")
    assert [name for name, _ in seen] == ["progress"] * (len(seen) - 1) + ["end"]
    assert (seen[-1][1]["id"], seen[-1][1]["state"]) == (job, "succeeded")
    assert of_base[-1][0] == "end"
    assert of_base[-1][1]["knowledge_base"]["states"] == {"succeeded": 1}
    assert {one["document"] for _, data in of_base for one in data["jobs"]} <= {"report.md"}
    assert api.get("/jobs/nobody/events").status_code == 404
    watched = deepwell.cli("jobs", "watch", job)
    assert watched == seen[-1][1]
    assert deepwell.cli("jobs", "show", job)["pages_total"] == 1


def test_pause_resume_and_read_anew_from_the_command_line(deepwell: Running, tmp_path: Path) -> None:
    deepwell.cli("kb", "create", "slow")
    assert deepwell.cli("kb", "pause", "slow")["paused"] is True
    added = deepwell.cli("add", str(report(tmp_path / "waits.md", 20)), "--kb", "slow")["documents"][0]
    assert added["state"] == "paused"
    [job] = deepwell.cli("jobs", "list", "--kb", "slow", "--state", "paused")["jobs"]
    assert job["document"] == "waits.md"
    assert deepwell.cli("search", "pump", "--kb", "slow")["hits"] == []
    assert deepwell.cli("kb", "resume", "slow")["paused"] is False
    assert deepwell.cli("jobs", "watch", job["id"])["state"] == "succeeded"
    refused = cli("jobs", "resume", job["id"], "--data-dir", str(deepwell.data_dir))
    assert refused.returncode == 2
    assert "is succeeded, not paused" in refused.stderr
    compared = deepwell.cli("kb", "check", "slow")
    assert compared.pop("chunks") > 0
    assert compared == {"knowledge_base": "slow", "lost_vectors": 0, "lost_words": 0, "orphans": 0}
    [again] = deepwell.cli("kb", "rechunk", "slow")["jobs"]
    assert deepwell.cli("jobs", "watch", again["id"])["state"] == "succeeded"


def test_dead_letters_have_their_reason(deepwell: Running, tmp_path: Path) -> None:
    (tmp_path / "damaged.pdf").write_bytes(b"%PDF-1.7\n" + b"garbage " * 200)
    deepwell.cli("add", str(tmp_path / "damaged.pdf"), "--kb", "bad", code=3)
    [letter] = deepwell.cli("jobs", "list", "--kb", "bad", "--dead-letters")["jobs"]
    assert (letter["document"], letter["state"]) == ("damaged.pdf", "failed")
    assert "damaged" in letter["error"]
    shown = cli("jobs", "list", "--dead-letters", "--data-dir", str(deepwell.data_dir))
    assert letter["error"] in shown.stdout
    [retried] = deepwell.cli("jobs", "retry", letter["id"])["jobs"]
    deadline = time.monotonic() + 240
    while deepwell.cli("jobs", "show", retried["id"])["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert cli("jobs", "watch", retried["id"], "--data-dir", str(deepwell.data_dir)).returncode == 3
    assert cli("jobs", "cancel", retried["id"], "--data-dir", str(deepwell.data_dir)).returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_embedding_model_takes_over_and_no_question_fails(
    deepwell: Running, api: httpx.Client, tmp_path: Path
) -> None:
    deepwell.cli("add", str(report(tmp_path / "valves.md", 1500)), "--kb", "valves")
    refused = cli("kb", "reembed", "valves", "--data-dir", str(deepwell.data_dir))
    assert refused.returncode == 2
    assert "already: name another model" in refused.stderr
    unknown = cli("kb", "reembed", "valves", "--model", "nobody/nothing", "--data-dir", str(deepwell.data_dir))
    assert unknown.returncode == 2
    assert "nobody/nothing" in unknown.stderr
    asked, failed, over = 0, list[str](), threading.Event()

    def ask() -> None:
        nonlocal asked
        while not over.is_set():
            answer = api.post("/search", json={"query": "what of pump 700?", "knowledge_bases": ["valves"]})
            hits = answer.json()["hits"] if answer.status_code == 200 else []
            if not any("pump 700 " in hit["text"] for hit in hits):
                failed.append(answer.text[:300])
            asked += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        job = deepwell.cli("kb", "reembed", "valves", "--passage-prefix", "text: ", "--no-wait")
        os.kill(deepwell.pid("services.worker"), signal.SIGKILL)
        (tmp_path / "late.md").write_text("# Late\n\nThe late report tells of the seventh floor.\n")
        late = deepwell.cli("add", str(tmp_path / "late.md"), "--kb", "valves")["documents"][0]
        assert late["state"] == "succeeded"
        ended = deepwell.cli("jobs", "watch", job["id"])
        at = asked
        while asked < at + 5 and asking.is_alive():
            time.sleep(0.05)
    finally:
        over.set()
        asking.join()
    assert failed == []
    assert (ended["kind"], ended["state"]) == ("reembed", "succeeded")
    assert "finds 1.000 of what exact search finds" in ended["notes"][0]
    hit = deepwell.cli("search", "which floor does the late report tell of?", "--kb", "valves")["hits"][0]
    assert hit["document"] == "late.md"
    again = cli("kb", "reembed", "valves", "--passage-prefix", "text: ", "--data-dir", str(deepwell.data_dir))
    assert again.returncode == 2
    removed = deepwell.cli("rm", late["id"])["documents"][0]
    assert removed["receipt"]["vectors"] == {"before": 1, "after": 0}
