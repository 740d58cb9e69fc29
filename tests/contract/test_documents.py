"""Loaders on real files of every origin: text with its markers, the right encoding, pages, and a reason for each no."""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pypdfium2
import pytest

from pipelines.encoding import decode
from pipelines.errors import LockedDocument, UnreadableDocument, UnsupportedDocument
from pipelines.loaders import Options, load, read_text
from pipelines.markup import clean

# What browsers read under these names; see pipelines.encoding.
#: what the peer writes around a message of its own accord
PEERS_OWN = ("# Email Message", "## Content")
SUPERSETS = {"SHIFT_JIS": "cp932", "GB2312": "gb18030", "Big5": "big5hkscs"}


def files(shared: Path, kind: str) -> list[dict[str, Any]]:
    """Entries of the manifest of one kind."""
    lines = (shared / "data/docs/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry["kind"] == kind]


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


def letters(text: str) -> str:
    """Only letters and digits: expected strings come from converters with other marks, links and pictures."""
    return re.sub(r"[\W_]+", "", re.sub(r"\]\([^)]*\)", "]", text))


def text_of(path: Path, password: str = "", ocr: bool = False) -> str:
    pages = load(path, options=Options(password=password, ocr=ocr))
    return "\n".join(f"{page.title}\n{page.text}" for page in pages)


def test_every_good_file_gives_clean_text(shared: Path) -> None:
    entries = files(shared, "ok")
    assert len(entries) > 90
    for entry in entries:
        text = text_of(shared / "data/docs" / entry["path"])
        assert text.strip(), entry["path"]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ufffd\ufeff\ufffe]", text), entry["path"]
        assert unicodedata.is_normalized("NFC", text), entry["path"]


def test_expected_strings_of_a_peer_are_found(shared: Path) -> None:
    docs = shared / "data/docs"
    checked = 0
    for line in (docs / "markitdown_expected.jsonl").read_text(encoding="utf-8").splitlines():
        expected = json.loads(line)
        path = docs / "ok" / f"markitdown__{expected['filename']}"
        if not path.exists():
            continue
        text = text_of(path)
        for marker in expected["must_include"]:
            if "base64" not in marker and marker not in PEERS_OWN:  # pictures are not text
                value = re.sub(r"^\*\*(From|Subject):\*\* ", "", marker)  # other labels here, or none
                assert letters(value) in letters(text), (path.name, marker)
        for marker in expected["must_not_include"]:
            assert marker not in text, (path.name, marker)
        checked += 1
    assert checked >= 11


def test_words_of_a_layout_parser_are_found(shared: Path) -> None:
    """Recall of words against docling's Markdown. The exceptions are formulas as LaTeX and a page's navigation."""
    least = {"equations.docx": 0.6, "wiki_duck.html": 0.45, "html_rich_table_cells.html": 0.7, "xlsx_01.xlsx": 0.6}
    checked = 0
    for entry in files(shared, "ok"):
        truth = shared / "data/docs" / entry.get("groundtruth", "none")
        if truth.is_file():
            expected = words(truth.read_text(encoding="utf-8"))
            found = words(text_of(shared / "data/docs" / entry["path"]))
            recall = (expected & found).total() / expected.total()
            assert recall >= least.get(entry["path"].split("__")[1], 0.77), (entry["path"], recall)
            checked += 1
    assert checked >= 34


def test_real_pages_of_every_encoding_equal_their_strict_decode(shared: Path) -> None:
    lines = (shared / "data/docs/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if "encoding" in entry]
    assert len(entries) >= 29
    for entry in entries:
        data = (shared / "data/docs" / entry["path"]).read_bytes()
        encoding = SUPERSETS.get(entry["encoding"], entry["encoding"])
        undeclared = re.sub(rb"(?i)charset|encoding", b"xxxxxxxx", data)
        assert decode(data) == data.decode(encoding), entry["path"]
        assert decode(undeclared) == undeclared.decode(encoding), entry["path"]


@pytest.mark.parametrize("kind", ["broken", "hostile", "locked", "scan"])
def test_bad_files_give_text_or_a_reason(shared: Path, kind: str) -> None:
    refused: list[str] = []
    for path in sorted((shared / "data/docs" / kind).iterdir()):
        try:
            outcome = text_of(path)
        except (UnreadableDocument, UnsupportedDocument) as error:
            outcome = str(error)
            refused.append(path.name)
            assert re.match(rf"{re.escape(path.name)} (is|needs|holds|would) \S+", outcome)
        assert outcome.strip(), path.name
    assert len(refused) >= 3


def test_locked_files_ask_for_their_password(shared: Path) -> None:
    locked = shared / "data/docs/locked"
    for name in ("unstructured__password.pdf", "pypdf__r6-user-password.pdf", "unstructured__password_protected.xlsx"):
        with pytest.raises(LockedDocument, match=rf"{name} needs a password"):
            text_of(locked / name)
        with pytest.raises(LockedDocument, match=rf"{name} does not open with the password given"):
            text_of(locked / name, password="wrong")


@pytest.mark.parametrize(
    ("name", "password", "marker"),
    [
        ("unstructured__password.pdf", "password", "File with password"),
        ("pypdf__r6-user-password.pdf", "asdfzxcv", "pdf encryption test"),
        ("pypdf__r6-empty-password.pdf", "", "pdf encryption test"),
        ("unstructured__copy-protected.pdf", "", "LayoutParser"),
        ("unstructured__copy-protected.pdf", "one of another file", "LayoutParser"),
        ("unstructured__password_protected.xlsx", "123", ""),
    ],
)
def test_locked_files_open_with_their_password(shared: Path, name: str, password: str, marker: str) -> None:
    text = text_of(shared / "data/docs/locked" / name, password)
    assert text.strip() and marker in text


def test_the_seed_article_is_made_whole(shared: Path) -> None:
    """UTF-8 that was read as cp1254, which has no character for seven bytes: 477 of 3,646 characters lost one."""
    from connectors.e5.words import words

    seeds = shared / "reference/seeds"
    expected = (seeds / "article-1-recovered.txt").read_text(encoding="utf-8")
    remarks: list[str] = []
    found = read_text(seeds / "article-1.txt", Options(words=words, remark=remarks.append))
    wrong = [at for at, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    assert len(wrong) <= 10
    assert "had been read as cp1254, with lost bytes in 477 characters" in remarks[0]


def test_nothing_that_is_whole_is_repaired(shared: Path) -> None:
    remarks: list[str] = []

    def never() -> dict[str, float]:
        raise AssertionError("text of a whole file was looked at as if bytes were missing")

    options = Options(words=never, remark=remarks.append, ocr=False)
    for entry in files(shared, "ok"):
        list(load(shared / "data/docs" / entry["path"], options=options))
    assert not [remark for remark in remarks if "repaired" in remark]


@pytest.mark.slow
def test_every_scan_gives_readable_text(shared: Path) -> None:
    pytest.importorskip("rapidocr")
    expected = {
        "docling__ocr_test.pdf": "Docling bundles PDF document conversion to JSON and Markdown",
        "docling__ocr_test_rotated_90.pdf": "Docling bundles PDF document conversion to JSON and Markdown",
        "unstructured__chi_sim_image.jpeg": "适合任何肌肤，尤其适用毛孔粗大、油脂分泌过多",
        "unstructured__jpn-vert.jpeg": "元来日本語は漢文に倣い文字を上から下へまた行を右から左へと進めて表記",
        "unstructured__english-and-korean.png": "Use all your accounts. use different emails to send.",
        "unstructured__double-column-A.jpg": "The rules in this subchapter shall apply to all positions",
        "markitdown__MEDRPT-2024-PAT-3847_medical_report_scan.pdf": "Heart Rate | 78 bpm | 60-100 bpm | NORMAL",
    }
    assert {Path(entry["path"]).name for entry in files(shared, "scan")} == set(expected)
    for name, marker in expected.items():
        assert letters(marker) in letters(text_of(shared / "data/docs/scan" / name, ocr=True)), name


def test_scans_say_so(shared: Path) -> None:
    for path in (shared / "data/docs/scan").glob("*.pdf"):
        with pytest.raises(UnreadableDocument, match=r"holds no text \(scanned\?\)"):
            text_of(path)


def test_nothing_external_is_read(shared: Path) -> None:
    hostile = shared / "data/docs/hostile"
    text = text_of(hostile / "poi__ExternalEntityInText.docx")
    assert "root:" not in text
    assert "passwd" not in text
    assert "alert" not in text_of(hostile / "unstructured__example-with-scripts.html")


def grams(text: str, size: int = 5) -> Counter[str]:
    dense = "".join(unicodedata.normalize("NFKC", text).split())
    return Counter(dense[i : i + size] for i in range(len(dense) - size + 1))


@pytest.mark.parametrize("name", ["debmake-doc.zh-cn", pytest.param("debian-reference.ja", marks=pytest.mark.slow)])
def test_pdf_text_is_no_worse_than_raw_pdfium(shared: Path, name: str) -> None:
    truth = grams((shared / f"data/gt/{name}.txt").read_text(encoding="utf-8"))
    host = "DEBIAN-MIRROR"  # the set's stand-in for the archive's host name
    path = shared / f"data/gt/{name}.pdf"

    def score(text: str) -> tuple[float, float]:
        found = grams(re.sub(r"deb\.debian\.org|archive\.debian\.org", host, text))
        shared_grams = (truth & found).total()
        return shared_grams / truth.total(), shared_grams / found.total()

    raw = score("\n".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(path)))
    ours = score("\n".join(page.text for page in load(path)))
    assert ours[0] >= raw[0] - 0.01, (ours, raw)
    assert ours[1] >= raw[1] - 0.01, (ours, raw)


def test_articles_load_as_they_are(shared: Path) -> None:
    seeds = shared / "reference/seeds"
    starts = {
        0: "# Alibaba Deepseek−V3とDeepseek−R1のデプロイ",
        1: "# DeepSeek-R1ã®Fine-tuning",  # mojibake in the file itself; kept until it can be repaired
        2: "# DeepSeek R1 分散推論の高速展開",
        3: "DeepSeek V3がAIの世界を席巻する理由",
        4: "DeepSeek-R1及其蒸馏版本模型突破了AI",
    }
    for number, start in starts.items():
        path = seeds / f"article-{number}.txt"
        [page] = load(path)
        titled = page.text if page.text.startswith("#") or not page.title else f"# {page.title}\n{page.text}"
        assert titled.startswith(clean(start)), (number, titled[:60])
        tail = clean(path.read_text(encoding="utf-8")).rstrip()[-200:]
        assert page.text.rstrip().endswith(tail), number


def test_reports_keep_their_page_numbers(shared: Path) -> None:
    """Evidence of FinanceBench stands on the page that its makers name (0-based there)."""
    folder = shared / "data/financebench"
    pages = {path.stem: {page.number: page.text for page in load(path)} for path in sorted(folder.glob("*.pdf"))}
    checked = 0
    for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        for evidence in question.get("evidence", []):
            document = pages.get(evidence.get("doc_name", question.get("doc_name")))
            text = letters(evidence.get("evidence_text", ""))[:60]
            if document and len(text) > 30:
                number = evidence["evidence_page_num"] + 1
                checked += 1
                assert text in letters(document.get(number, "")), (question["doc_name"], number, text)
    assert checked >= 5


def test_japanese_government_pdfs(shared: Path) -> None:
    folder = shared / "data/pdf_ja_zh"
    with (folder / "documents.csv").open(encoding="utf-8-sig") as rows:
        for row in csv.DictReader(rows):
            pages = list(load(folder / row["file_name"]))
            assert len(pages) == int(row["page"])
            text = "".join(page.text for page in pages)
            wide = sum("\u3040" <= char < "\u3100" or "\u4e00" <= char < "\ua000" for char in text)
            assert wide > 0.4 * len("".join(text.split())), row["file_name"]
            assert row["title"][:4] in text


def damaged(data: bytes, random: Random) -> bytes:
    """The same file with bytes changed or its end cut off; a zip is changed inside a member, so that it still opens."""
    if data.startswith(b"PK") and random.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice([name for name in members if name.endswith((".xml", ".rels"))])
        members[name] = damaged(members[name], random)
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return copy.getvalue()
    if random.random() < 0.3:
        return data[: random.randrange(1, len(data))]
    changed = bytearray(data)
    for _ in range(random.choice((1, 10, 100))):
        changed[random.randrange(len(data))] = random.choice((random.randrange(256), *b'<>"0a&/ 9-'))
    return bytes(changed)


@pytest.mark.parametrize("rounds", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_damaged_copies_give_text_or_a_reason(shared: Path, tmp_path: Path, rounds: int) -> None:
    """Whatever a foreign parser raises on a damaged file comes out as one of our errors."""
    random = Random(rounds)
    paths = [shared / "data/docs" / entry["path"] for entry in files(shared, "ok") if entry["bytes"] < 100_000]
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        path = random.choice(paths)
        copy = tmp_path / path.name
        copy.write_bytes(damaged(path.read_bytes(), random))
        try:
            outcomes["text" if text_of(copy).strip() else "nothing"] += 1
        except (UnreadableDocument, UnsupportedDocument) as error:
            outcomes["reason" if str(error).startswith(path.name) else "nothing"] += 1
    assert outcomes["nothing"] == 0
    assert min(outcomes["text"], outcomes["reason"]) > rounds / 10
