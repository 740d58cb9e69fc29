"""State, names and turns: what needs no process."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.errors import BadRequest, Conflict, UnreadableDocument
from services import places
from services.job import JobDead, Superseded, state_of
from services.jobs_database import jobs_url
from services.lock import DirectoryLock, Holder, holder
from services.settings import load_settings
from services.store.database import sync_url
from services.store.names import document_id, document_name, knowledge_base_name, new_job_id
from services.turns import Turns


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        ("ENQUEUED", None, "queued"),
        ("DELAYED", None, "queued"),
        ("PENDING", None, "running"),
        ("SUCCESS", None, "succeeded"),
        ("ERROR", UnreadableDocument("x"), "failed"),
        ("ERROR", JobDead("x"), "dead"),
        ("ERROR", Superseded("x"), "cancelled"),
        ("CANCELLED", None, "cancelled"),
        ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None, "dead"),
    ],
)
def test_states_that_users_see(status: str, error: Exception | None, state: str) -> None:
    assert state_of(status, error) == state


@pytest.mark.parametrize("name", ["a", "samples", "HR-2026_v1.2", "社内規程", "ガイド", "x" * 64, "हिन्दी"])
def test_names_of_knowledge_bases(name: str) -> None:
    assert knowledge_base_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a?b", "a#b", "a\u3000b", "x" * 65, "a\n", "a:b", "..", "a%b"])
def test_what_cannot_be_a_name_of_a_knowledge_base(name: str) -> None:
    with pytest.raises(BadRequest, match="knowledge base's name"):
        knowledge_base_name(name)


def test_names_are_the_same_however_they_are_typed() -> None:
    assert knowledge_base_name("カ\u3099イト\u3099") == knowledge_base_name("ガイド")


def test_names_of_documents() -> None:
    assert document_name(" 休暇 規程/2026 (v1).pdf ") == "休暇 規程/2026 (v1).pdf"
    for name in ("", "   ", "a\nb", "a\0b", "a\u2028b", "\ud800", "x" * 1001):
        with pytest.raises(BadRequest, match="document's name"):
            document_name(name)


def test_ids() -> None:
    assert document_id("kb-1", "a.pdf") == document_id("kb-1", "a.pdf")
    assert len({document_id("kb-1", "a.pdf"), document_id("kb-2", "a.pdf"), document_id("kb-1", "b.pdf")}) == 3
    assert document_id("kb-1", "a.pdf").startswith("doc-")
    assert len(document_id("kb-1", "a.pdf")) == 24
    assert new_job_id("ingest", "doc-1") != new_job_id("ingest", "doc-1")


def test_where_jobs_are_kept(tmp_path: Path) -> None:
    assert jobs_url(load_settings({"data_dir": str(tmp_path)}, environ={})) == f"sqlite:///{tmp_path}/jobs.db"
    url = "postgresql://me:p%40ss@db:5432/deepwell"
    assert jobs_url(load_settings({"store.url": url}, environ={})) == url
    assert sync_url(url).drivername == "postgresql+psycopg"


def test_a_data_directory_has_one_user(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with DirectoryLock(tmp_path) as lock:
        lock.note(port=8100)
        assert holder(tmp_path) == Holder(os.getpid(), 8100, HOST)
        with pytest.raises(Conflict, match=rf"in use by process {os.getpid()}, which listens on port 8100"):
            DirectoryLock(tmp_path).acquire()
        DirectoryLock(tmp_path, "worker.lock").acquire()  # another one
    assert holder(tmp_path) is None
    with DirectoryLock(tmp_path):
        assert holder(tmp_path) == Holder(os.getpid(), 0, HOST)


HOST = socket.gethostname()
HOLD = """
import sys, time
from pathlib import Path
from services.lock import DirectoryLock
DirectoryLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert holder(tmp_path) == Holder(process.pid, 0, HOST)
        with pytest.raises(Conflict, match=f"process {process.pid}"):
            DirectoryLock(tmp_path).acquire()
        process.kill()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == process.pid
    with DirectoryLock(tmp_path):
        assert holder(tmp_path) == Holder(os.getpid(), 0, HOST)


async def test_one_job_at_a_time_for_a_document(tmp_path: Path) -> None:
    turns, inside, most = Turns(tmp_path), 0, 0

    async def job(document: str) -> None:
        nonlocal inside, most
        async with turns.document(document):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(job("a") for _ in range(5)))
    assert most == 1
    await asyncio.gather(*(job(name) for name in "abc"))
    assert most == 3
    assert turns._documents == {}


async def test_a_suspect_works_alone(tmp_path: Path) -> None:
    turns, working = Turns(tmp_path), []
    seen: list[list[str]] = []

    async def job(name: str, suspect: bool) -> None:
        async with turns.work(suspect):
            working.append(name)
            seen.append(sorted(working))
            await asyncio.sleep(0.001)
            working.remove(name)

    names = [("a", False), ("b", False), ("S", True), ("c", False), ("T", True), ("d", False)]
    await asyncio.gather(*(job(*one) for one in names))
    assert [one for one in seen if "S" in one or "T" in one] == [["S"], ["T"]]
    assert any(len(one) > 1 for one in seen)


async def test_a_suspect_that_is_cancelled_holds_nobody_up(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    async with turns.work(suspect=False):
        suspect = asyncio.create_task(turns.work(suspect=True).__aenter__())
        await asyncio.sleep(0)
        suspect.cancel()
        await asyncio.gather(suspect, return_exceptions=True)
        async with asyncio.timeout(1), turns.work(suspect=False):
            pass


async def test_one_job_at_a_time_for_a_document_among_workers_too(tmp_path: Path) -> None:
    first, second = Turns(tmp_path / "turns"), Turns(tmp_path / "turns")
    order: list[str] = []

    async def job(turns: Turns, name: str) -> None:
        async with turns.document("a"):
            order.append(name)
            await asyncio.sleep(0.01)
            order.append(name)

    async with first.document("a"):
        waiting = [asyncio.create_task(job(second, name)) for name in ("x", "y")]
        with pytest.raises(Conflict, match="another process works on a"):
            async with Turns(tmp_path / "turns").document("a", wait=False):
                raise AssertionError("two at a time")
        async with second.document("b", wait=False):
            assert order == []
    await asyncio.gather(*waiting, job(first, "z"))
    assert [one == other for one, other in zip(order[::2], order[1::2], strict=True)] == [True] * 3
    assert list((tmp_path / "turns").iterdir()) == [], "nothing is left behind"


def test_workers_have_places_and_a_free_one_is_left(tmp_path: Path) -> None:
    assert not places.well(tmp_path)
    taken = [places.take(tmp_path, several=True) for _ in range(3)]
    assert [name for name, _ in taken] == ["worker", "worker-2", "worker-3"]
    assert places.well(tmp_path)
    assert list(places.left(tmp_path, "worker")) == []
    taken[1][1].release()
    looked_at = []
    for name in places.left(tmp_path, "worker"):
        looked_at.append(name)
        assert list(places.left(tmp_path, "worker-3")) == [], "held while it is looked at"
    assert looked_at == ["worker-2"]
    assert places.take(tmp_path, several=True)[0] == "worker-2"
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        places.take(tmp_path, several=False)


def test_a_worker_that_says_nothing_is_not_well(tmp_path: Path) -> None:
    _, lock = places.take(tmp_path, several=True)
    silent = time.time() - places.SILENT - 1
    os.utime(tmp_path / "worker.lock", (silent, silent))
    assert not places.well(tmp_path)
    lock.note(port=0)
    assert places.well(tmp_path)
    (tmp_path / "worker.lock").write_text(json.dumps({"pid": 7, "port": 0, "host": "another container"}))
    assert not places.well(tmp_path)
    lock.release()
