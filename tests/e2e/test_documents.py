"""Documents through the whole product: passwords, remarks, and pages to look at."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest
from msoffcrypto.format.ooxml import OOXMLFile

from tests.e2e.conftest import Running
from tests.pdfs import pdf


@pytest.fixture(scope="module")
def api(deepwell: Running) -> httpx.Client:
    """Deepwell's REST API with the operator's key."""
    headers = {"Authorization": f"Bearer {deepwell.key}"}
    client = httpx.Client(base_url=f"{deepwell.url}/v1", headers=headers, timeout=60, trust_env=False)
    client.post("/knowledge_bases", json={"name": "default"})
    return client


def add(api: httpx.Client, name: str, content: bytes, **form: str) -> dict[str, Any]:
    """Add a file and wait for the end of its job."""
    path = "/knowledge_bases/default/documents"
    answer = api.post(path, files={"file": (name, content)}, data=form).raise_for_status().json()
    document: dict[str, Any] = answer["documents"][0]
    deadline = time.monotonic() + 240
    while document["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, document
        time.sleep(0.2)
        document = api.get(f"/documents/{document['id']}").raise_for_status().json()
    return document


def locked_workbook() -> bytes:
    book, plain, locked = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    book.active.append(["the vault opens", "at seven"])
    book.save(plain)
    OOXMLFile(plain).encrypt("open-sesame-31", locked)
    return locked.getvalue()


def test_a_locked_file_asks_for_its_password_and_opens_with_it(api: httpx.Client, deepwell: Running) -> None:
    content = locked_workbook()
    refused = add(api, "vault.xlsx", content)
    assert (refused["state"], refused["code"]) == ("failed", "password_required")
    assert refused["error"].startswith("vault.xlsx needs a password to be opened: add it again with its password")
    wrong = add(api, "vault.xlsx", content, password="wrong")
    assert (wrong["state"], wrong["code"]) == ("failed", "password_required")
    opened = add(api, "vault.xlsx", content, password="open-sesame-31")
    assert (opened["state"], opened["code"], opened["id"]) == ("succeeded", None, refused["id"])
    chunks = api.get(f"/documents/{opened['id']}/chunks").json()["chunks"]
    assert "the vault opens" in chunks[0]["text"]
    assert not [path for path in deepwell.data_dir.rglob("*") if path.is_file() and b"open-sesame-31" in _bytes(path)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a file of a database that came and went
        return b""


def test_pages_can_be_shown_with_the_places_of_their_words(api: httpx.Client) -> None:
    document = add(api, "guide.pdf", pdf("Wells are deep", "Second page"))
    page = api.get(f"/documents/{document['id']}/pages/1").raise_for_status().json()
    assert (page["width"], page["height"], page["source"]) == (612, 792, "text")
    assert [word["text"] for word in page["words"]] == ["Wells", "are", "deep"]
    left, top, right, bottom = page["words"][0]["box"]
    assert 70 < left < 75 < right < 110
    assert 60 < top < bottom < 80  # the line stands 72 points below the top
    image = api.get(f"/documents/{document['id']}/pages/2/image").raise_for_status()
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")
    missing = api.get(f"/documents/{document['id']}/pages/3")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "guide.pdf has no page 3: it has 2"


def test_remarks_say_what_was_left_out_of_an_archive(api: httpx.Client, deepwell: Running) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../a.md", "# Rules\n\nNobody swims in the well.")
        archive.writestr("setup.exe", b"MZ\0\0")
    document = add(api, "all.zip", out.getvalue())
    assert document["state"] == "succeeded"
    notes = api.get(f"/documents/{document['id']}/pages").raise_for_status().json()
    assert notes["ocr_pages"] == []
    assert notes["remarks"][0].startswith("setup.exe was left out: ")
    chunks = api.get(f"/documents/{document['id']}/chunks").json()["chunks"]
    assert chunks[0]["heading"].startswith("a.md")
    assert api.get(f"/documents/{document['id']}/pages/1").status_code == 415
    kept = list((deepwell.data_dir / "notes").iterdir())
    api.delete(f"/documents/{document['id']}").raise_for_status()
    assert not [path for path in kept if path.exists()]
