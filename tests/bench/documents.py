"""Quality of what is read, on the documents beside the checkout: text, structure, scans, passwords, hostile files.

Text layers against the publishers' own text by character 5-grams (recall and precision), with a bare pypdfium2 loop as
floor. Headings and tables against the Markdown that docling's own tests expect: a heading counts if it is a heading
here too, a table if four fifths of its cells stand in tables here.
"""

import asyncio
import json
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pypdfium2

from pipelines.errors import LockedDocument, UnreadableDocument, UnsupportedDocument
from pipelines.loaders import Options, _ocr, load
from services.parsing import Parser

DATA = Path(__file__).parents[3] / "shared/data"
DOCS = DATA / "docs"
#: what the .txt files of the set write instead of a host
HOST = "DEBIAN-MIRROR"
PASSWORDS = {
    "unstructured__password.pdf": "password",
    "pypdf__r6-user-password.pdf": "asdfzxcv",
    "unstructured__password_protected.xlsx": "123",
}
SCANS = {
    "docling__ocr_test.pdf": "Docling bundles PDF document conversion to JSON and Markdown in an easy self contained",
    "docling__ocr_test_rotated_90.pdf": "Docling bundles PDF document conversion to JSON and Markdown",
    "unstructured__chi_sim_image.jpeg": "适合任何肌肤，尤其适用毛孔粗大、油脂分泌过多",
    "unstructured__jpn-vert.jpeg": "元来日本語は漢文に倣い文字を上から下へまた行を右から左へと進めて表記",
    "unstructured__english-and-korean.png": "Use all your accounts. use different emails to send.",
    "unstructured__double-column-A.jpg": "The rules in this subchapter shall apply to all positions in the competi",
    "markitdown__MEDRPT-2024-PAT-3847_medical_report_scan.pdf": "Heart Rate 78 bpm 60-100 bpm NORMAL",
}


def letters(text: str) -> str:
    """Only letters and digits, in compatibility form."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text))


def grams(text: str, size: int = 5) -> Counter[str]:
    dense = "".join(unicodedata.normalize("NFKC", text).split())
    return Counter(dense[i : i + size] for i in range(len(dense) - size + 1))


def text_of(path: Path, password: str = "", ocr: bool = False) -> str:
    pages = load(path, options=Options(password=password, ocr=ocr))
    return "\n\n".join(page.text for page in pages)


def raw(path: Path) -> str:
    return "\n".join(page.get_textpage().get_text_range(errors="replace") for page in pypdfium2.PdfDocument(path))


def text_layers() -> dict[str, float]:
    """Recall and precision of 5-grams, ours and the floor's."""
    print("PDF text, character 5-grams   recall (floor)   precision (floor)   target: no worse by more than 0.010")
    figures = {}
    for name in ("debmake-doc.zh-cn", "debian-reference.ja"):
        truth = grams((DATA / f"gt/{name}.txt").read_text(encoding="utf-8"))
        scores = []
        for text in (text_of(DATA / f"gt/{name}.pdf"), raw(DATA / f"gt/{name}.pdf")):
            found = grams(re.sub(r"(?:deb|ftp|http)\.debian\.(?:org|net)", HOST, text))
            same = (found & truth).total()
            scores.append((same / truth.total(), same / found.total()))
        (recall, precision), (least_recall, least_precision) = scores
        print(f"  {name:26}  {recall:.3f} ({least_recall:.3f})    {precision:.3f} ({least_precision:.3f})")
        figures |= {f"{name}_recall": recall, f"{name}_precision": precision}
        assert recall >= least_recall - 0.01 and precision >= least_precision - 0.01, name
    return figures


def headings(markdown: str) -> Counter[str]:
    return Counter(letters(found) for found in re.findall(r"^#{1,6} (.+)$", markdown, re.MULTILINE))


def tables(markdown: str) -> Iterator[Counter[str]]:
    """Cells of each table."""
    for block in re.findall(r"(?:^\|.*(?:\n|\Z))+", markdown, re.MULTILINE):
        cells = [letters(cell) for row in block.splitlines() for cell in re.split(r"(?<!\\)\|", row)]
        found = Counter(cell for cell in cells if cell)
        if found:
            yield found


def structure() -> dict[str, float]:
    """Share of the expected headings and tables that are found, by format."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for line in (DOCS / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] != "ok" or "groundtruth" not in entry:
            continue
        expected = (DOCS / entry["groundtruth"]).read_text(encoding="utf-8")
        found = "".join(f"# {page.title}\n\n{page.text}\n\n" for page in load(DOCS / entry["path"]))
        wanted, have = headings(expected), headings(found)
        cells = sum(tables(found), Counter())
        grids = list(tables(expected))
        whole = sum((grid & cells).total() >= 0.8 * grid.total() for grid in grids)
        total = totals[Path(entry["path"]).suffix]
        for index, value in enumerate(((wanted & have).total(), wanted.total(), whole, len(grids))):
            total[index] += value
    print("Structure that docling expects   headings       tables")
    for suffix, (h, hs, t, ts) in sorted(totals.items()):
        print(f"  {suffix:28} {h:5} of {hs:3}   {t:4} of {ts:3}")
    office = [total for suffix, total in totals.items() if suffix != ".pdf"]
    h, hs, t, ts = (sum(total[i] for total in office) for i in range(4))
    print(f"  all but PDF                  {h / hs:12.2f}   {t / ts:11.2f}   target >= 0.80 each")
    pdf = totals[".pdf"]
    assert h >= 0.8 * hs and t >= 0.8 * ts
    return {
        "headings_found": h / hs, "tables_found": t / ts, "pdf_headings_found": pdf[0] / max(1, pdf[1]),
        "pdf_tables_found": pdf[2] / max(1, pdf[3]),
    }  # fmt: skip


def good() -> int:
    """Files that give text, all of them."""
    paths = sorted((DOCS / "ok").iterdir())
    silent = [path.name for path in paths if not text_of(path).strip()]
    print(f"Good files with text             {len(paths) - len(silent)} of {len(paths)}   target: all")
    assert not silent, silent
    return len(paths)


def scans() -> dict[str, float]:
    """Scans of which the expected passage is read."""
    if not _ocr.is_installed():
        print("Scans: not measured, the extra `ocr` is not installed")
        return {}
    read, begin = 0, time.process_time()
    for name, marker in SCANS.items():
        found = letters(marker) in letters(text_of(DOCS / "scan" / name, ocr=True))
        read += found
        if not found:
            print(f"  not read: {name}")
    seconds = (time.process_time() - begin) / 9  # nine pages in seven files
    print(f"Scans that are readable          {read} of {len(SCANS)}   target: all; {seconds:.1f} CPU-s a page")
    assert read == len(SCANS)
    return {"scans_read": read, "ocr_cpu_s_per_page": seconds}


def locked() -> int:
    """Locked files that ask without their password and open with it."""
    opened = 0
    for path in sorted((DOCS / "locked").iterdir()):
        password = PASSWORDS.get(path.name, "")
        try:
            asks = not text_of(path)
        except LockedDocument:
            asks = True
        opened += asks == bool(password) and bool(text_of(path, password))
    print(f"Locked files that ask and open   {opened} of 5   target: all")
    assert opened == 5
    return opened


async def _bad() -> tuple[int, float, float]:
    """Bad files that end with text or a reason; longest seconds, and most MiB of a parser."""
    count, longest, most = 0, 0.0, 0.0
    with TemporaryDirectory() as folder:
        async with Parser(timeout=60, memory_mb=2048) as parser:

            async def weigh() -> None:
                nonlocal most
                while True:
                    for pid in parser.pids():
                        try:
                            most = max(most, psutil.Process(pid).memory_info().rss / (1 << 20))
                        except psutil.Error:
                            continue
                    await asyncio.sleep(0.02)

            watch = asyncio.create_task(weigh())
            for path in sorted(path for kind in ("broken", "hostile", "locked") for path in (DOCS / kind).iterdir()):
                begin = time.monotonic()
                with suppress(UnreadableDocument, UnsupportedDocument):  # the contract tests hold the reasons
                    await parser.parse(path, Path(folder, "out"), lambda *_: None)
                longest, count = max(longest, time.monotonic() - begin), count + 1
            watch.cancel()
    return count, longest, most


def run() -> dict[str, object]:
    """Print the tables; fails where a bar is missed."""
    assert DOCS.is_dir(), "needs ../shared"
    figures: dict[str, object] = {**text_layers(), **structure(), "good_files": good(), "locked": locked()}
    count, longest, most = asyncio.run(_bad())
    print(f"Broken, hostile, locked files    {count} ended, the longest after {longest:.1f} s, {most:.0f} MiB at most")
    print("                                 target: all, within 60 s and 2,048 MiB")
    assert longest <= 60 and most <= 2048
    return figures | scans() | {"bad_files": count, "bad_longest_s": longest, "bad_most_mib": most}
