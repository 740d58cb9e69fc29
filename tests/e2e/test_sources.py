"""Sources through the whole product: command line, REST, real embeddings, real indexes."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Running, cli


@pytest.fixture(scope="module")
def http(deepwell: Running) -> httpx.Client:
    headers = {"Authorization": f"Bearer {deepwell.key}"}
    return httpx.Client(base_url=f"{deepwell.url}/v1", headers=headers, timeout=60, trust_env=False)


def search(deepwell: Running, question: str, kb: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = deepwell.cli("search", question, "--kb", kb)["hits"]
    return hits


def test_a_folder_is_kept_in_step(deepwell: Running, tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    (folder / "rules").mkdir(parents=True)
    (folder / "leave.md").write_text("# Leave\n\nFull-time staff have twenty-five days of annual leave.\n")
    (folder / "rules" / "wells.md").write_text("# Wells\n\nNobody swims in the well.\n")
    (folder / "picture.bin").write_bytes(b"\x7fELF\0\1")
    made = deepwell.cli("source", "add", "folder", str(folder), "--kb", "team", "--name", "handbook", "--wait")
    assert (made["name"], made["kind"], made["watch"], made["schedule"]) == ("handbook", "folder", True, "1h")
    assert made["documents"] == {"succeeded": 2}
    assert made["problems"][0]["external_id"] == "picture.bin"
    assert search(deepwell, "annual leave", "team")[0]["document"] == "leave.md"

    (folder / "leave.md").write_text("# Leave\n\nFull-time staff have thirty days of annual leave.\n")
    (folder / "rules" / "wells.md").unlink()
    deadline = time.monotonic() + 240  # nobody says sync: the folder is watched
    while True:
        texts = " ".join(hit["text"] for hit in search(deepwell, "annual leave", "team"))
        if "thirty days" in texts and "swims" not in texts and "twenty-five" not in texts:
            break
        assert time.monotonic() < deadline, deepwell.cli("source", "status", "handbook")
        time.sleep(0.3)
    assert deepwell.cli("source", "sync", "handbook", "--wait")["documents"] == {"succeeded": 1}
    assert [one["name"] for one in deepwell.cli("source", "list")["sources"]] == ["handbook"]
    changed = deepwell.cli("source", "change", "handbook", "--schedule", "0 3 * * *", "--no-watch")
    assert (changed["schedule"], changed["watch"]) == ("0 3 * * *", False)
    shown = cli("source", "status", "handbook", "--data-dir", str(deepwell.data_dir)).stdout
    assert "left out: picture.bin is of a kind" in shown
    gone = deepwell.cli("source", "rm", "handbook", "--keep-documents")
    assert (gone["documents"], gone["kept"]) == (1, True)
    assert search(deepwell, "annual leave", "team")


def test_only_allowed_folders_are_read(deepwell: Running, http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "private")
    http.post("/knowledge_bases", json={"name": "default"})
    for location in (tmp_path / "private", tmp_path / "way", deepwell.data_dir):
        answer = http.post("/sources", json={"kind": "folder", "location": str(location)})
        assert answer.status_code == 403, answer.text
        assert "DEEPWELL_SYNC__FOLDERS" in answer.text or "own data" in answer.text
    wrong = {
        "relative/path": "give the folder's whole path", str(tmp_path / "none"): "is not a folder on the machine",
    }  # fmt: skip
    for location, words in wrong.items():
        answer = http.post("/sources", json={"kind": "folder", "location": location})
        assert (answer.status_code, words in answer.text) == (400, True), answer.text
    answer = http.post("/sources", json={"kind": "ftp", "location": "x"})
    assert "unknown sources connector 'ftp': use one of folder, " in answer.text
    answer = http.post("/sources", json={"kind": "push", "options": {"colour": "red"}})
    assert "has no option 'colour'; it has: exclude, include, prefix" in answer.text
    answer = http.post("/sources", json={"kind": "push", "schedule": "now and then"})
    assert "say an interval" in answer.text
    assert deepwell.cli("source", "sync", "nobody", code=2) is None


def test_a_program_pushes_documents_under_ids_of_its_own(deepwell: Running, http: httpx.Client) -> None:
    made = deepwell.cli("source", "add", "push", "--kb", "pushed", "--name", "crm", "-o", "prefix=crm/")
    url = "/sources/crm/documents/ticket%2F42"
    first = http.put(url, content=b"The pump of well seven is broken.", params={"name": "pump.txt", "version": "1"})
    assert first.status_code == 202, first.text
    assert first.json()["name"] == "crm/pump.txt"
    again = http.put(url, content=b"not read", params={"name": "pump.txt", "version": "1"}).json()
    assert again["job"] == first.json()["job"]
    renamed = http.put(url, content=b"The pump of well seven works again.", params={"name": "done.txt", "version": "2"})
    assert renamed.status_code == 202
    deadline = time.monotonic() + 240
    while http.get("/sources/crm").json()["documents"] != {"succeeded": 1}:
        assert time.monotonic() < deadline, http.get("/sources/crm").text
        time.sleep(0.2)
    listed = http.get("/sources/crm/documents").json()["documents"]
    assert [(one["external_id"], one["name"], one["version"]) for one in listed] == [("ticket/42", "crm/done.txt", "2")]
    assert "works again" in search(deepwell, "pump of well seven", "pushed")[0]["text"]
    assert http.post("/sources/crm/sync", json={}).status_code == 409
    removed = http.delete(url).json()
    assert (removed["state"], removed["name"]) == ("succeeded", "crm/done.txt")
    assert http.delete(url).status_code == 404
    assert http.put("/sources/none/documents/1", content=b"x").status_code == 404
    assert http.put("/sources/crm/documents/1", content=b"", params={"name": "e.txt"}).status_code == 422
    assert http.delete(f"/sources/{made['id']}").json()["kept"] is False


def test_secrets_are_kept_from_everybody(deepwell: Running, http: httpx.Client) -> None:
    body = {"kind": "push", "name": "secretive", "credentials": {"token": "s3cr3t-t0ken"}}
    refused = http.post("/sources", json=body)
    assert (refused.status_code, "s3cr3t" in refused.text) == (400, False)
    logs = subprocess.run(
        ["grep", "-rl", "s3cr3t", str(deepwell.data_dir)], capture_output=True, text=True, check=False
    )
    assert logs.stdout == ""
    assert json.dumps(http.get("/sources").json()).count("s3cr3t") == 0
