"""PostgreSQL or Milvus goes away in the middle of questions: each is answered or refused in words, and heals."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.up import listening_port
from tests.contract import postgres
from tests.contract.job_parts import wait_for
from tests.contract.lite import Lite
from tests.e2e.conftest import Running, start, stop


def ask(running: Running) -> tuple[int, dict[str, Any]]:
    """One question over HTTP: status and body."""
    answer = httpx.post(
        f"{running.url}/v1/ask", json={"question": "Where is the boiler room key?", "knowledge_bases": ["keys"]},
        headers={"Authorization": f"Bearer {running.key}"}, timeout=120, trust_env=False,
    )  # fmt: skip
    return answer.status_code, answer.json()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_postgresql_away_in_the_middle_of_questions(tmp_path: Path) -> None:
    cluster = postgres.Cluster()
    cluster.start()
    running = start(tmp_path / "data", env={"DEEPWELL_STORE__URL": postgres.new_database(cluster.url, "questions")})
    try:
        (tmp_path / "boiler.txt").write_text("The boiler room key hangs behind the kitchen door.\n")
        running.cli("kb", "create", "keys")
        assert running.cli("add", str(tmp_path / "boiler.txt"), "--kb", "keys")["documents"][0]["state"] == "succeeded"
        service, worker = running.pid("services.app"), running.pid("services.worker")
        answers: list[tuple[int, dict[str, Any]]] = []
        ended = threading.Event()

        def keep_asking() -> None:
            while not ended.is_set():
                answers.append(ask(running))

        asking = [threading.Thread(target=keep_asking) for _ in range(3)]
        for thread in asking:
            thread.start()
        wait_for(lambda: len(answers) >= 3)
        cluster.stop()
        wait_for(lambda: any(status == 503 for status, _ in answers))
        parts = httpx.get(f"{running.url}/readyz", timeout=30, trust_env=False).json()["parts"]
        assert "the database does not answer" in parts["state"]
        cluster.start()
        before = len(answers)
        wait_for(lambda: any(status == 200 for status, _ in answers[before + 3 :]))
        ended.set()
        for thread in asking:
            thread.join(120)
        for status, body in answers:
            if status == 200:
                assert body["citations"][0]["document"] == "boiler.txt"
            else:
                assert status == 503, body
                assert "the database does not answer" in str(body), body
        assert ask(running)[0] == 200
        assert (running.pid("services.app"), running.pid("services.worker")) == (service, worker), (
            "nothing was restarted"
        )
        (tmp_path / "later.txt").write_text("The ladder is in the shed.\n")
        assert running.cli("add", str(tmp_path / "later.txt"), "--kb", "keys")["documents"][0]["state"] == "succeeded"
    finally:
        stop(running)
        cluster.stop()
        cluster.remove()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_milvus_away_at_the_start_and_in_the_middle_of_questions_and_jobs(tmp_path: Path) -> None:
    port = listening_port("127.0.0.1", 0)
    log = tmp_path / "data.log"
    servers: list[Lite] = []

    def milvus_comes() -> None:
        wait_for(lambda: log.exists() and "waiting for" in log.read_text())
        servers.append(Lite(tmp_path / "milvus", port))

    coming = threading.Thread(target=milvus_comes)
    coming.start()
    running = start(tmp_path / "data", env={"DEEPWELL_INDEX__URL": f"http://127.0.0.1:{port}"})
    try:
        coming.join()
        (said,) = (line for line in log.read_text().splitlines() if line.startswith("waiting for"))
        assert "index" in said
        assert str(port) in said
        (tmp_path / "boiler.txt").write_text("The boiler room key hangs behind the kitchen door.\n")
        running.cli("kb", "create", "keys")
        assert running.cli("add", str(tmp_path / "boiler.txt"), "--kb", "keys")["documents"][0]["state"] == "succeeded"
        assert ask(running)[0] == 200
        servers[0].kill()
        status, body = ask(running)
        assert status == 503
        assert str(port) in str(body)
        (tmp_path / "ladder.txt").write_text("The ladder is in the shed.\n")
        added = running.cli("add", str(tmp_path / "ladder.txt"), "--kb", "keys", "--no-wait")["documents"][0]["id"]
        time.sleep(5)  # the job meets the absence
        servers[0].start()
        wait_for(lambda: ask(running)[0] == 200)

        wait_for(lambda: document(running, added)["state"] == "succeeded")
        assert not document(running, added)["error"]
    finally:
        stop(running)
        for server in servers:
            server.kill()


def document(running: Running, document_id: str) -> dict[str, Any]:
    """A document of the knowledge base as REST shows it."""
    answer = httpx.get(
        f"{running.url}/v1/documents/{document_id}", headers={"Authorization": f"Bearer {running.key}"},
        timeout=30, trust_env=False,
    )  # fmt: skip
    return dict(answer.json())
