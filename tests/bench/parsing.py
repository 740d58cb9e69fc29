"""Parsing and splitting: pages and megabytes per CPU second, next to a floor and to peers in the same run.

Floor of parsing: a bare pypdfium2 loop over the same PDFs. Peers: pypdf if it is installed, and LangChain's
RecursiveCharacterTextSplitter with the same token counter. Minimum of several rounds; CPU time, not wall time.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pypdfium2
from langchain_text_splitters import RecursiveCharacterTextSplitter

from pipelines.loaders import Options, load
from pipelines.splitters import PAGE_BREAK, split
from pipelines.types import Page
from services.parsing import Parser

SHARED = Path(__file__).parents[3] / "shared"
ROUNDS = 5
#: text layers are measured here; OCR in tests/bench/documents.py
TEXT = Options(ocr=False)


def cpu_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Least CPU time of several rounds."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def raw(paths: Sequence[Path]) -> None:
    for path in paths:
        for page in pypdfium2.PdfDocument(path):
            page.get_textpage().get_text_range()


def ours(paths: Sequence[Path]) -> None:
    for path in paths:
        for _ in load(path, options=TEXT):
            pass


def peer(paths: Sequence[Path]) -> None:
    import pypdf

    for path in paths:
        for page in pypdf.PdfReader(path).pages:
            page.extract_text()


def count_tokens(texts: Sequence[str]) -> list[int]:
    """A cheap counter, so that the splitters themselves are measured: four letters a token, a wide one for itself."""
    return [-(-len(text) // 4) if text.isascii() else -(-(3 * len(text.encode()) - len(text)) // 8) for text in texts]


async def through_children(paths: Sequence[Path]) -> tuple[float, float, float]:
    """CPU seconds of one child for all files, seconds to its first answer, and its resident MiB afterwards."""
    with TemporaryDirectory() as folder:
        async with Parser() as parser:
            begin = time.monotonic()
            await parser.parse(Path(__file__), Path(folder, "out"), lambda *_: None, name="a.txt")
            start = time.monotonic() - begin
            await parser.parse(paths[0], Path(folder, "out"), lambda *_: None, ocr=False)  # imports
            child = psutil.Process(parser.pids()[0])
            before = sum(child.cpu_times()[:2])
            for path in paths:
                await parser.parse(path, Path(folder, "out"), lambda *_: None, ocr=False)
            return sum(child.cpu_times()[:2]) - before, start, child.memory_info().rss / (1 << 20)


def run() -> dict[str, object]:
    """Print the table; fails if PDF text is below 0.8 of the floor."""
    names = ("financebench/*.pdf", "pdf_ja_zh/*.pdf", "gt/debmake-doc.zh-cn.pdf")
    paths = [path for name in names for path in sorted((SHARED / "data").glob(name))]
    assert paths, "needs ../shared/data"
    pages = sum(len(pypdfium2.PdfDocument(path)) for path in paths)
    # turn by turn, so that a busy machine slows both
    turns = [(cpu_seconds(lambda: raw(paths), 1), cpu_seconds(lambda: ours(paths), 1)) for _ in range(2 * ROUNDS)]
    floor, mine = (min(times) for times in zip(*turns, strict=True))
    child, start, memory = asyncio.run(through_children(paths))
    figures: dict[str, object] = {
        "pdf_pages": pages,
        "raw_pdfium_pages_per_cpu_s": pages / floor,
        "pdf_pages_per_cpu_s": pages / mine,
        "pdf_ratio": floor / mine,
        "child_pages_per_cpu_s": pages / child,
        "child_start_s": start,
        "child_resident_mib": memory,
    }
    print(f"PDF text, {pages} pages          pages/CPU-s   of the floor   target")
    print(f"  bare pypdfium2 loop          {pages / floor:10.0f}           1.00")
    print(f"  Deepwell's loader            {pages / mine:10.0f}   {floor / mine:12.2f}   >= 0.80")
    print(f"  in a child, written to disk  {pages / child:10.0f}   {floor / child:12.2f}")
    if find_spec("pypdf"):
        plain = [path for path in paths if b"/Encrypt" not in path.read_bytes()]  # the others need one more package
        speed = sum(len(pypdfium2.PdfDocument(path)) for path in plain) / cpu_seconds(lambda: peer(plain), 1)
        figures["pypdf_pages_per_cpu_s"] = speed
        print(f"  pypdf (peer)                 {speed:10.0f}   {speed * floor / pages:12.2f}")
    print(f"  child ready after {start:.2f} s (target 0.40), {memory:.0f} MiB resident after all files")
    figures |= splitters([page for path in paths for page in load(path, options=TEXT)])
    assert floor / mine >= 0.8, f"PDF text at {floor / mine:.2f} of a bare pypdfium2 loop"
    return figures


def splitters(pages: Sequence[Page]) -> dict[str, object]:
    """Megabytes of UTF-8 per CPU second of our splitter and LangChain's on the same text."""
    text = PAGE_BREAK.join(page.text for page in pages)
    megabytes = len(text.encode()) / 1e6
    langchain = RecursiveCharacterTextSplitter(
        chunk_size=300, chunk_overlap=40, length_function=lambda text: count_tokens([text])[0]
    )
    theirs = cpu_seconds(lambda: langchain.split_text(text), 3)
    ours = cpu_seconds(
        lambda: split(
            pages, document_id="d", knowledge_base_id="k", document="n", count_tokens=count_tokens,
            chunk_tokens=300, overlap=40,
        ),
        3,
    )  # fmt: skip
    print(f"Splitting, {megabytes:.1f} MB              MB/CPU-s   (same counter, 300 tokens, overlap 40)")
    print(f"  Deepwell                     {megabytes / ours:10.1f}   with headings, pages, offsets, stable ids")
    print(f"  LangChain Recursive…         {megabytes / theirs:10.1f}   strings only")
    return {"split_mb_per_cpu_s": megabytes / ours, "langchain_split_mb_per_cpu_s": megabytes / theirs}
