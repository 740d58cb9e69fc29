"""Each loader on a file made by the library of its format."""

import datetime
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import OxmlElement
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from pipelines import loaders
from pipelines.errors import NotFound, UnreadableDocument, UnsupportedDocument
from pipelines.loaders import as_documents, count_pages, find, load
from pipelines.splitters import split
from pipelines.types import Page
from tests.pdfs import pdf

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file and give its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write


def text_of(path: Path) -> str:
    pages = list(load(path))
    assert len(pages) == 1
    return pages[0].text


def test_pdf_keeps_page_numbers_and_leaves_empty_pages_out(write: Write) -> None:
    path = write("a.pdf", pdf("First page", "", "Third page"))
    assert list(load(path)) == [Page(text="First page", number=1), Page(text="Third page", number=3)]
    assert count_pages(path) == 3


def test_pdf_without_text_says_that_it_may_be_a_scan(write: Write) -> None:
    with pytest.raises(UnreadableDocument, match=r"scan\.pdf holds no text \(scanned\?\)"):
        list(load(write("scan.pdf", pdf("", ""))))


def test_pdf_headings_are_lines_in_larger_letters(write: Write) -> None:
    def line(text: str, size: int) -> str:
        return f") Tj /F1 {size} Tf 0 -30 Td ({text}"

    body = "".join(line(f"This is line {i} of the body of the page, which goes on", 12) for i in range(5))
    page = (
        "Top of the page"
        + line("Annual leave", 20)
        + body
        + line("# apt install", 12)
        + line("Carried days", 15)
        + body
    )
    [text] = [page.text for page in load(write("a.pdf", pdf(page)))]
    assert text.startswith("Top of the page\n\n# Annual leave\n\nThis is line 0")
    assert "goes on\n # apt install\n\n## Carried days\n\nThis is line 0" in text
    poster = "".join(line(f"Words in letters of size {size}", size) for size in (12, 20, 30, 24, 22, 40))
    assert "#" not in "".join(page.text for page in load(write("b.pdf", pdf(poster))))


def test_pdf_joins_words_only_where_the_page_hyphenates() -> None:
    from pipelines.loaders.pdf import _tidy

    page = "poten\ufffetially and chat\ufffebased\nas chat-based as ever\nﬁrst ⽇本"
    assert _tidy(page) == "potentially and chat-based\nas chat-based as ever\nfirst 日本"
    assert _tidy("cloud\ufffebased\n" + "line\n" * 50 + "é").startswith("cloud-based")


def test_pdf_joins_wide_lines_that_were_only_wrapped() -> None:
    from pipelines.loaders.pdf import _tidy

    page = (
        "第1章 概要\r\nこの文書は社内の感染症対策についての考え方を説明し、感染\r\n症の予防を目的とする。\r\n鴨\r\n池"
    )
    assert _tidy(page) == (
        "第1章 概要\nこの文書は社内の感染症対策についての考え方を説明し、感染症の予防を目的とする。\n鴨\n池"
    )


def test_docx_structure_in_document_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_heading("Leave", 1)
    document.add_paragraph("Ask early.")
    document.add_paragraph("one day", style="List Bullet")
    document.add_paragraph("two days", style="List Bullet")
    document.add_paragraph("first", style="List Number")
    table = document.add_table(rows=3, cols=2)
    for row, cells in zip(table.rows, (("Kind", "Days"), ("Annual", "20"), ("Sick|ill", "10")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    table.cell(1, 1).merge(table.cell(2, 1))
    document.add_paragraph("After the table.")
    document.sections[0].header.paragraphs[0].text = "CONFIDENTIAL"
    document.save(str(tmp_path / "a.docx"))
    assert text_of(tmp_path / "a.docx") == (
        "# Handbook\n\n# Leave\n\nAsk early.\n\n- one day\n- two days\n1. first\n\n"
        "| Kind | Days |\n| --- | --- |\n| Annual | 20 10 |\n| Sick\\|ill | 20 10 |\n\nAfter the table."
    )


def test_docx_leaves_deleted_text_out_and_inserted_text_in(tmp_path: Path) -> None:
    document = docx.Document()
    paragraph = document.add_paragraph("kept ")
    for tag, text in (("w:ins", "added"), ("w:del", "gone")):
        change, run = OxmlElement(tag), OxmlElement("w:r")
        content = OxmlElement("w:t" if tag == "w:ins" else "w:delText")
        content.text = text
        run.append(content)
        change.append(run)
        paragraph._p.append(change)
    document.save(str(tmp_path / "a.docx"))
    assert text_of(tmp_path / "a.docx") == "kept added"


def test_pptx_gives_a_page_for_each_slide(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Plan"
    first.placeholders[1].text = "Start\nEnd"
    first.notes_slide.notes_text_frame.text = "Say hello"
    second = deck.slides.add_slide(deck.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for place, text in enumerate(("Year", "Ducks", "2024", "7")):
        table.cell(place // 2, place % 2).text = text
    data = CategoryChartData()
    data.categories = ["Q1", "Q2"]
    data.add_series("Sales", (1.5, 2))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(3), Inches(4), Inches(2), data)
    deck.save(str(tmp_path / "a.pptx"))
    pages = list(load(tmp_path / "a.pptx"))
    assert pages[0] == Page(text="# Plan\n\nStart\nEnd\n\nNotes: Say hello", number=1, title="Plan")
    assert pages[1].number == 2
    assert "| Year | Ducks |\n| --- | --- |\n| 2024 | 7 |" in pages[1].text
    assert "|  | Sales |\n| --- | --- |\n| Q1 | 1.5 |\n| Q2 | 2 |" in pages[1].text.replace("2.0", "2")
    assert count_pages(tmp_path / "a.pptx") == 2


def test_xlsx_gives_a_page_for_each_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Trips"
    for row in (("Day", "Cost", "Share"), (datetime.datetime(2026, 3, 1), 12.5, 0.25), (None, None, None), ("end", 1)):
        sheet.append(row)
    sheet["C2"].number_format = "0%"
    book.create_sheet("空のシート")
    book.create_sheet("東京").append(["単独"])
    book.save(tmp_path / "a.xlsx")
    assert list(load(tmp_path / "a.xlsx")) == [
        Page(
            text="| Day | Cost | Share |\n| --- | --- | --- |\n| 2026-03-01 | 12.5 | 25% |\n\nend | 1",
            number=1,
            title="Trips",
        ),
        Page(text="単独", number=3, title="東京"),
    ]


def test_html_keeps_structure_and_drops_boilerplate(write: Write) -> None:
    path = write(
        "a.html",
        """<!DOCTYPE html><html><head><title>T</title><style>x{}</style><script>alert(1)</script></head><body>
        <nav>Home</nav><div class="cookie-banner sidebar">Accept</div><p style="display: none">hidden</p>
        <h1>Ducks &amp; geese</h1>Loose<br>text<p>They <b>swim</b> and <a href="/x">fly</a>.</p>
        <ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul><ol><li>first</li></ol>
        <table><tr><th>Kind</th><th>Size</th></tr><tr><td rowspan=2>Mallard</td><td>50&nbsp;cm</td></tr>
        <tr><td>60 cm</td></tr></table><pre>a = 1\n  b = 2</pre><img src="http://192.0.2.1/x.png"></body></html>""",
    )
    assert text_of(path) == (
        "# Ducks & geese\n\nLoose\ntext\n\nThey swim and fly.\n\n- one\n    - inner\n- two\n\n1. first\n\n"
        "| Kind | Size |\n| --- | --- |\n| Mallard | 50 cm |\n| Mallard | 60 cm |\n\n```\na = 1\n  b = 2\n```"
    )


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "utf-8", "utf-16"])
def test_html_in_japanese_encodings(write: Write, encoding: str) -> None:
    label = {"cp932": "Shift_JIS", "euc_jp": "EUC-JP"}.get(encoding, encoding)
    page = f'<html><head><meta charset="{label}"></head><body><p>有給休暇は二十日です。</p></body></html>'
    assert text_of(write("a.html", page.encode(encoding))) == "有給休暇は二十日です。"


def test_html_takes_main_when_it_holds_the_text(write: Write) -> None:
    page = "<html><body><div>Login</div><main><p>" + "Long text. " * 20 + "</p></main></body></html>"
    assert "Login" not in text_of(write("a.html", page))


def test_markdown_front_matter_becomes_title_and_text(write: Write) -> None:
    source = '---\ntitle: "R1を試す" # x\ntopics: ["ai", "cloud"]\nemoji: "🤖"\n---\n本文です。\n<!-- note -->\n'
    assert list(load(write("a.md", source))) == [
        Page(text="# R1を試す\n\ntopics: ai, cloud\n\n本文です。", title="R1を試す")
    ]
    assert next(load(write("a.txt", source))).title == "R1を試す"
    assert text_of(write("b.md", "---\n\nA rule, no front matter.")) == "---\n\nA rule, no front matter."


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_any_delimiter(write: Write, delimiter: str) -> None:
    rows = [["名前", "Ort"], ["佐藤", f'"a{delimiter} ""b"""'], ["髙橋", "x"]]
    data = "\r\n".join(delimiter.join(row) for row in rows).encode("cp932")
    shown = f'a{delimiter} "b"'.replace("|", "\\|").replace("\t", " ").replace("  ", " ")
    assert text_of(write("a.csv", data)) == f"| 名前 | Ort |\n| --- | --- |\n| 佐藤 | {shown} |\n| 髙橋 | x |"


def test_long_csv_is_grouped_with_its_header(write: Write) -> None:
    pages = list(load(write("a.csv", "n,square\n" + "".join(f"{i},{i * i}\n" for i in range(1, 2502)))))
    assert [page.title for page in pages] == ["rows 1-1000", "rows 1001-2000", "rows 2001-2501"]
    assert all(page.text.startswith("| n | square |\n| --- | --- |\n") for page in pages)
    assert pages[2].text.endswith("| 2501 | 6255001 |")


def test_text_is_nfc_with_plain_line_ends_and_no_controls(write: Write) -> None:
    assert (
        text_of(write("a.txt", "か\u3099\r\nb\x07\x00c\rd\u200b\ufeff \n\n\n\ne".replace("\x00", "")))
        == "が\nbc\nd\n\ne"
    )


def test_content_decides_before_the_name(write: Write) -> None:
    assert text_of(write("report.txt", pdf("I am a PDF"))) == "I am a PDF"
    assert text_of(write("page.md", "<!doctype html><p>web</p>")) == "web"
    assert text_of(write("README", "no suffix")) == "no suffix"
    assert "text/csv" in find(write("0a1b", "a,b\n1,2\n"), "sheet.csv").MEDIA_TYPES


def test_what_cannot_be_read_says_why(write: Write) -> None:
    for name in ("a.txt", "a.pdf", "a.docx"):
        with pytest.raises(UnreadableDocument, match=f"{name} is empty"):
            list(load(write(name, b"")))
    with pytest.raises(NotFound, match="no file gone"):
        list(load(Path("gone.pdf")))
    with pytest.raises(UnsupportedDocument, match=r"\.docx, .*\.pdf"):
        list(load(write("a.bin", b"\x00\x01")))
    for name in ("a.docx", "a.xlsx", "a.pptx", "a.pdf"):
        with pytest.raises(UnreadableDocument, match=f"{name} is .*damaged"):
            list(load(write(name, b"PK\x03\x04 cut off" if name != "a.pdf" else b"%PDF-1.4\nnothing")))
    with pytest.raises(UnreadableDocument, match=r"my\.txt is not text"):
        list(load(write("blob", b"\x00\x01\x02" * 99), "my.txt"))
    with pytest.raises(UnreadableDocument, match="holds no text"):
        list(load(write("blank.txt", " \n\t\n")))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (80 << 20))
    with pytest.raises(UnreadableDocument, match="would unpack to 80 MiB"):
        list(load(tmp_path / "a.docx"))


def test_every_loader_file_keeps_the_contract() -> None:
    found = loaders.loaders()
    assert {"csv", "docx", "html", "markdown", "pdf", "pptx", "text", "xlsx"} <= set(found)
    suffixes = [suffix for loader in found.values() for suffix in loader.SUFFIXES]
    assert len(suffixes) == len(set(suffixes))
    for loader in found.values():
        assert loader.MEDIA_TYPES
        assert all(suffix == suffix.lower() for suffix in loader.SUFFIXES)


def test_langchain_documents_carry_page_title_and_source(write: Write) -> None:
    [first, second] = as_documents(write("a.pdf", pdf("One", "Two")), "guides/a.pdf")
    assert (first.page_content, first.metadata) == ("One", {"source": "guides/a.pdf", "page": 1})
    assert second.metadata["page"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "# " + "#" * 200_000 + "x",
        " " * 200_000 + "x",
        "<!--" * 50_000,
        "<!-- -->" * 500 + "<p",
        "```\n" * 50_001,
        "|" * 100_000 + "\n|" + "-" * 100_000 + "x",
        "a." * 100_000,
        "\n" * 300_000 + "x",
        "- " * 100_000,
        "\ufffex" * 50_000,
    ],
)
def test_no_text_takes_more_than_linear_time(write: Write, text: str) -> None:
    """Patterns that make careless regular expressions go on for hours."""
    begin = time.process_time()
    for name in ("a.md", "a.html", "a.csv"):
        try:
            pages = list(load(write(name, text)))
        except UnreadableDocument:
            continue
        split(pages, document_id="d", knowledge_base_id="k", document=name, count_tokens=lambda texts: [
            len(text) // 4 + 1 for text in texts
        ])  # fmt: skip
    assert time.process_time() - begin < 5
