"""Parsing in real child processes: limits, kills, recycling, and what a child may see."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from pipelines.errors import NotFound, Unavailable, UnreadableDocument, UnsupportedDocument
from services.parsing import Parser
from tests.pdfs import pdf

PAGES = 3000


@pytest.fixture
async def parser() -> AsyncIterator[Parser]:
    async with Parser(timeout=120) as parser:
        yield parser


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PDF that takes a while: time enough to be killed in the middle."""
    path = tmp_path_factory.mktemp("big") / "big.pdf"
    path.write_bytes(pdf(*(f"Page {i}" for i in range(1, PAGES + 1))))
    return path


def ignore(done: int, total: int | None) -> None:
    """No interest in progress."""


async def test_pages_are_written_as_json_lines_with_progress(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "0a1b").write_bytes(pdf("One", "", "Three"))
    seen: list[tuple[int, int | None]] = []
    out = tmp_path / "pages.jsonl"
    assert await parser.parse(tmp_path / "0a1b", out, lambda *args: seen.append(args), name="guide.pdf") == 2
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == [
        {"text": "One", "number": 1, "title": ""},
        {"text": "Three", "number": 3, "title": ""},
    ]
    assert seen[0] == (1, 3)
    assert sorted(os.listdir(tmp_path)) == ["0a1b", "pages.jsonl"]


async def test_errors_keep_their_class_and_the_childs_life(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.bin").write_bytes(b"\0\1")
    (tmp_path / "cut.docx").write_bytes(b"PK\x03\x04cut")
    for name, error in (
        ("empty.txt", UnreadableDocument),
        ("a.bin", UnsupportedDocument),
        ("cut.docx", UnreadableDocument),
        ("none.md", NotFound),
    ):
        with pytest.raises(error, match=name):
            await parser.parse(tmp_path / name, tmp_path / "out", ignore)
    assert len(parser.pids()) == 1
    assert not (tmp_path / "out").exists()


async def test_a_child_killed_once_is_replaced_and_the_document_parsed(
    parser: Parser, big: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_once(done: int, total: int | None) -> None:
        if done > 1 and not killed:
            killed.extend(parser.pids())
            os.kill(killed[0], signal.SIGKILL)

    assert await parser.parse(big, tmp_path / "out", kill_once) == PAGES
    assert len((tmp_path / "out").read_text().splitlines()) == PAGES
    assert parser.pids() != killed


async def test_a_document_that_kills_twice_is_given_up_and_others_go_on(big: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    async with Parser(processes=2, timeout=120) as parser:
        killed: set[int] = set()

        def kill_always(done: int, total: int | None) -> None:
            if done > 1:
                (busy,) = [pid for pid in parser.pids() if pid not in killed and _reads(pid, big)] or [0]
                if busy:
                    killed.add(busy)
                    os.kill(busy, signal.SIGKILL)

        bad = asyncio.create_task(parser.parse(big, tmp_path / "bad", kill_always))
        for i in range(5):
            assert await parser.parse(tmp_path / "a.txt", tmp_path / f"good{i}", ignore) == 1
        with pytest.raises(UnreadableDocument, match=r"big\.pdf ended its parser twice \(SIGKILL, SIGKILL\)"):
            await bad
        assert await parser.parse(tmp_path / "a.txt", tmp_path / "again", ignore) == 1
    assert not (tmp_path / "bad").exists()


def _reads(pid: int, path: Path) -> bool:
    try:
        return any(file.path == str(path) for file in psutil.Process(pid).open_files())
    except psutil.Error:
        return False


async def test_a_slow_document_ends_at_its_time_limit(big: Path, tmp_path: Path) -> None:
    async with Parser(timeout=0.1) as parser:
        begin = time.monotonic()
        with pytest.raises(UnreadableDocument, match=r"took more than 0\.1 s"):
            await parser.parse(big, tmp_path / "out", ignore)
        assert time.monotonic() - begin < 30
        assert parser.pids() == []


async def test_a_hungry_document_ends_at_its_memory_limit(tmp_path: Path) -> None:
    with (tmp_path / "big.csv").open("w") as file:
        file.writelines("name,value\n" * 10_000 for _ in range(800))
    async with Parser(memory_mb=300, timeout=60) as parser:
        with pytest.raises(UnreadableDocument, match=r"big\.csv needs more (memory|than 300 MiB)"):
            await parser.parse(tmp_path / "big.csv", tmp_path / "out", ignore)
        (tmp_path / "a.txt").write_text("fine")
        assert await parser.parse(tmp_path / "a.txt", tmp_path / "out", ignore) == 1


async def test_output_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("a,b\n" + "some,words\n" * 200_000)
    async with Parser(output_mb=1) as parser:
        with pytest.raises(UnreadableDocument, match=r"long\.csv holds more than 1 MiB of text"):
            await parser.parse(tmp_path / "long.csv", tmp_path / "out", ignore)
    assert os.listdir(tmp_path) == ["long.csv"]


async def test_children_are_recycled(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    async with Parser(recycle_after=2) as parser:
        pids = []
        for i in range(4):
            await parser.parse(tmp_path / "a.txt", tmp_path / f"out{i}", ignore)
            pids.append(tuple(parser.pids()))
    assert pids[1] == pids[3] == ()
    assert pids[0] != pids[2]


async def test_a_child_sees_no_secrets_and_no_network(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_CHAT__API_KEY", "secret")
    (tmp_path / "a.txt").write_text("fine")
    await parser.parse(tmp_path / "a.txt", tmp_path / "out", ignore)
    [pid] = parser.pids()
    assert set(psutil.Process(pid).environ()) <= {"PATH", "LANG", "PYTHONPATH", "LC_CTYPE"}
    probe = await asyncio.create_subprocess_exec("unshare", "--net", "true", stderr=asyncio.subprocess.DEVNULL)
    if await probe.wait() == 0:
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


async def test_closing_ends_children_and_says_so_to_who_waits(big: Path, tmp_path: Path) -> None:
    parser = Parser(timeout=120)
    begun = asyncio.Event()
    task = asyncio.create_task(parser.parse(big, tmp_path / "out", lambda *_: begun.set()))
    await begun.wait()
    pids = parser.pids()
    await parser.close()
    with pytest.raises(Unavailable, match="shut down"):
        await task
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_cancelled_parse_leaves_no_process(parser: Parser, big: Path, tmp_path: Path) -> None:
    begun = asyncio.Event()
    task = asyncio.create_task(parser.parse(big, tmp_path / "out", lambda *_: begun.set()))
    await begun.wait()
    [pid] = parser.pids()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pid)
    assert parser.pids() == []


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed with SIGKILL in the middle of a document; its child goes too."""
    (tmp_path / "a.txt").write_text("fine")
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom services.parsing import Parser\n"
        "async def main():\n    parser = Parser()\n"
        f"    await parser.parse(Path({str(tmp_path / 'a.txt')!r}), Path({str(tmp_path / 'out')!r}), lambda *_: None)\n"
        "    print(*parser.pids(), flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_starts_without_heavy_imports() -> None:
    code = (
        "import sys, services.parsing, services.parsing_child\n"
        "heavy = {'lxml', 'docx', 'pptx', 'openpyxl', 'pypdfium2', 'langchain_core', 'pydantic', 'numpy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: of each kind of attack one; the slow suite takes all
SAMPLE = ("poi__poc-xmlbomb.xlsx", "tika__testXXE.xml", "pdf.js__bomb_giant.pdf", "docling__docx_external_image.docx",
          "unstructured__fake-html-with-image-from-url.html", "pypdf__r6-user-password.pdf", "markitdown__random.bin",
          "pypdf__issue-297.pdf", "unstructured__empty.xlsx")  # fmt: skip


@pytest.mark.parametrize("names", [SAMPLE, pytest.param((), marks=pytest.mark.slow)], ids=["sample", "all"])
async def test_bad_files_end_within_limits_and_the_pool_lives(
    shared: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = shared / "data/docs"
    paths = [path for kind in ("broken", "hostile", "locked") for path in sorted((folder / kind).iterdir())]
    assert len(paths) == 29
    async with Parser(timeout=60, memory_mb=2048) as parser:
        for path in paths:
            if names and path.name not in names:
                continue
            begin = time.monotonic()
            try:
                await parser.parse(path, tmp_path / "out", ignore)
            except (UnreadableDocument, UnsupportedDocument) as error:
                reason = str(error)
                assert reason.startswith(path.name)
            assert time.monotonic() - begin < 60, path.name
        assert await parser.parse(folder / "ok/docling__wiki.md", tmp_path / "out", ignore) == 1


def test_no_loader_opens_a_connection(shared: Path, tmp_path: Path) -> None:
    """Every file of every kind, with the system's own record of each call that touches the network."""
    script = (
        "import sys\nfrom pathlib import Path\nseen = []\n"
        "sys.addaudithook(lambda name, _: 'socket.' in name and name[-3:] != 'w__' and seen.append(name))\n"
        "from pipelines.errors import RagError\nfrom pipelines.loaders import Options, load\n"
        "for path in map(Path, sys.argv[1:]):\n    try:\n        list(load(path, options=Options(ocr=False)))\n"
        "    except RagError:\n        pass\nprint(*seen)\n"
    )
    paths = [str(path) for kind in ("hostile", "locked", "broken") for path in (shared / "data/docs" / kind).iterdir()]
    old = Path(__file__).parents[1] / "files"
    command = [sys.executable, "-c", script, *paths, *(str(path) for path in old.glob("*.*"))]
    strace = shutil.which("strace")
    trace = tmp_path / "trace"
    traced = [strace, "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace), *command] if strace else command
    done = subprocess.run(traced, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""
    assert not strace or trace.read_text() == ""


@pytest.mark.slow
async def test_ocr_runs_in_a_child_and_asks_for_time(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    scan = shared / "data/docs/scan/unstructured__jpn-vert.jpeg"
    async with Parser(timeout=4) as parser:  # loading the models alone may take longer
        assert await parser.parse(scan, tmp_path / "out", ignore) == 1
    assert "元来日本語は漢文に倣い文字を上" in (tmp_path / "out").read_text(encoding="utf-8")
    notes = json.loads((tmp_path / "notes.json").read_text(encoding="utf-8"))
    layout = notes["layouts"]["1"]
    assert (layout["source"], layout["width"], layout["height"]) == ("ocr", 169, 350)
    assert layout["confidence"] > 0.9
    assert layout["words"][0]["text"] == "元来日本語は漢文に倣い文字を上"
