"""Loaders of open formats, messages and archives, each on a file made here."""

import io
import json
import mailbox
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import msoffcrypto
import openpyxl
import pytest
from msoffcrypto.format.ooxml import OOXMLFile
from PIL import Image

from pipelines.errors import LockedDocument, TooLarge, UnreadableDocument, UnsupportedDocument
from pipelines.loaders import Budget, Options, load
from pipelines.loaders._nested import shown_name
from pipelines.loaders._ocr import Line, as_text, in_order
from pipelines.types import Page
from tests.pdfs import pdf

Write = Callable[[str, str | bytes], Path]
FILES = Path(__file__).parents[1] / "files"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file and give its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write


def text_of(path: Path) -> str:
    return "\n---\n".join(page.text for page in load(path))


def zipped(members: dict[str, str | bytes], first: str = "") -> bytes:
    """A zip; `first` is the content of an uncompressed `mimetype` in front."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        if first:
            archive.writestr(zipfile.ZipInfo("mimetype"), first)
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


OPEN = (
    '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"'
    ' xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"'
    ' xmlns:presentation="urn:oasis:names:tc:opendocument:xmlns:presentation:1.0">'
    "<office:body>{}</office:body></office:document-content>"
)


def opendocument(kind: str, body: str) -> bytes:
    return zipped(
        {"META-INF/manifest.xml": "<m/>", "content.xml": OPEN.format(f"<office:{kind}>{body}</office:{kind}>")},
        f"application/vnd.oasis.opendocument.{kind}",
    )


def test_opendocument_text(write: Write) -> None:
    body = (
        '<text:h text:outline-level="2">Leave</text:h><text:p>Ask<text:s text:c="2"/>early.<office:annotation>'
        "<text:p>secret</text:p></office:annotation></text:p>"
        "<text:list><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>deep</text:p>"
        "</text:list-item></text:list></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell>"
        '<text:p>b</text:p></table:table-cell></table:table-row><table:table-row table:number-rows-repeated="2">'
        '<table:table-cell table:number-columns-repeated="2"><text:p>x</text:p></table:table-cell></table:table-row>'
        "</table:table>"
    )
    assert text_of(write("a.odt", opendocument("text", body))) == (
        "## Leave\n\nAsk  early.\n\n- one\n    - deep\n\n| a | b |\n| --- | --- |\n| x | x |\n| x | x |"
    )


def test_opendocument_sheets_do_not_grow_to_their_used_range(write: Write) -> None:
    row = (
        "<table:table-row><table:table-cell><text:p>{}</text:p></table:table-cell><table:table-cell><text:p>{}</text:p>"
    )
    row += '</table:table-cell><table:table-cell table:number-columns-repeated="16382"/></table:table-row>'
    empty = '<table:table-row table:number-rows-repeated="1048000"><table:table-cell/></table:table-row>'
    body = f'<table:table table:name="Days">{row.format("a", "b")}{row.format("1", "2")}{empty}</table:table>'
    assert list(load(write("a.ods", opendocument("spreadsheet", body)))) == [
        Page(text="| a | b |\n| --- | --- |\n| 1 | 2 |", number=1, title="Days")
    ]


def test_opendocument_slides(write: Write) -> None:
    frame = '<draw:frame presentation:class="{}"><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>'
    body = f"<draw:page>{frame.format('title', 'Plan')}{frame.format('outline', 'First')}</draw:page><draw:page/>"
    assert list(load(write("a.odp", opendocument("presentation", body)))) == [
        Page(text="# Plan\n\nFirst", number=1, title="Plan")
    ]


def test_a_locked_opendocument_says_so(write: Write) -> None:
    members = {"META-INF/manifest.xml": "<encryption-data/>", "content.xml": "x"}
    with pytest.raises(LockedDocument, match=r"a\.odt needs a password"):
        text_of(write("a.odt", zipped(members, "application/vnd.oasis.opendocument.text")))


def test_epub_chapters_in_reading_order(write: Write) -> None:
    members = {
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="b/p.opf"/></rootfiles></container>',
        "b/p.opf": "<package><metadata><title>Book</title><creator>Ann</creator></metadata><manifest>"
        '<item id="x" href="two.xhtml"/><item id="y" href="one%20a.xhtml"/>'
        '<item id="n" href="n.xhtml" properties="nav"/>'
        '</manifest><spine><itemref idref="y"/><itemref idref="n"/><itemref idref="x"/></spine></package>',
        "b/one a.xhtml": "<html><body><h1>One</h1><p>First.</p></body></html>",
        "b/two.xhtml": "<html><body><h2>Two</h2><ul><li>a</li></ul></body></html>",
        "b/n.xhtml": "<html><body>contents</body></html>",
    }
    assert list(load(write("a.epub", zipped(members, "application/epub+zip")))) == [
        Page(text="# Book\n\nAuthors: Ann", title="Book"),
        Page(text="# One\n\nFirst.", title="One"),
        Page(text="## Two\n\n- a", title="Two"),
    ]


def letter(subject: str = "Plan") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ann <ann@example.org>", "bob@example.org", subject
    message.set_content("Hello.\n")
    message.add_alternative("<p>Hello in HTML.</p>", subtype="html")
    return message


def test_mail_with_attachments_of_any_kind(write: Write) -> None:
    message, forwarded = letter("計画"), letter("Inner")
    forwarded.add_attachment(b"deep", maintype="application", subtype="octet-stream", filename="deep.txt")
    message.add_attachment(pdf("From a PDF"), maintype="application", subtype="pdf", filename="../../etc/r.pdf")
    message.add_attachment(b"\0\1", maintype="application", subtype="x", filename="x.bin")
    remarks: list[str] = []
    pages = list(load(write("a.eml", message.as_bytes()), options=Options(remark=remarks.append)))
    assert pages == [
        Page(
            text="# 計画\n\nFrom: Ann <ann@example.org>\nTo: bob@example.org\nAttachments: etc/r.pdf, x.bin\n\nHello.",
            title="計画",
        ),
        Page(text="From a PDF", title="etc/r.pdf, page 1"),
    ]
    assert remarks[0].startswith("x.bin was left out: x.bin is of a kind Deepwell cannot read")


def test_a_mailbox_is_read_message_by_message(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "a.mbox")
    for subject in ("One", "Two"):
        box.add(letter(subject))
    box.close()
    assert [page.title for page in load(tmp_path / "a.mbox")] == ["One", "Two"]


def test_zip_of_documents_with_a_zip_in_it(write: Write) -> None:
    inside = zipped({"c.md": "# Deep"})
    archive = zipped({"a.txt": "A", "f/b.pdf": pdf("B"), "in.zip": inside, "__MACOSX/._a": "x", "p.exe": b"MZ\0"})
    remarks: list[str] = []
    pages = list(load(write("a.zip", archive), options=Options(remark=remarks.append)))
    assert pages == [
        Page(text="A", title="a.txt"), Page(text="B", title="f/b.pdf, page 1"),
        Page(text="# Deep", title="in.zip › c.md"),
    ]  # fmt: skip
    assert [remark.split(" ")[0] for remark in remarks] == ["p.exe"]


def test_zip_limits(write: Write) -> None:
    many = write("many.zip", zipped({f"{i}.txt": "x" for i in range(30)}))
    with pytest.raises(TooLarge, match="more files"):
        list(load(many, options=Options(budget=Budget(entries=20))))
    with pytest.raises(TooLarge, match="unpacks to more"):
        list(load(many, options=Options(budget=Budget(unpacked=20))))
    with pytest.raises(UnreadableDocument, match=r"bomb\.zip would unpack to 60 MiB"):
        text_of(write("bomb.zip", zipped({"a.txt": b" " * (60 << 20)})))
    deep: bytes = zipped({"bottom.txt": "x"})
    for _ in range(5):
        deep = zipped({"in.zip": deep})
    with pytest.raises(UnreadableDocument, match=r"deep\.zip holds no file that Deepwell can read"):
        text_of(write("deep.zip", deep))
    with pytest.raises(UnreadableDocument, match=r"holds no file"):
        text_of(write("nothing.zip", zipped({"a.exe": b"MZ\0"})))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "etc/passwd"), ("C:\\Users\\a\\b.txt", "C:/Users/a/b.txt"), ("/abs//x", "abs/x"),
        ("", "unnamed"),
        ("a\n\0b\u202e.txt", "a b.txt"),
    ],
)  # fmt: skip
def test_names_inside_are_never_paths(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_subtitles(write: Write) -> None:
    vtt = "WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000\n<v Ann>Hello &amp;\n\n"
    vtt += "00:02.000 --> 00:03.000\n<v Ann>welcome.\n\n"
    vtt += "00:03.000 --> 00:04.000\n<v Bob><i>Thanks.</i>\n"
    assert text_of(write("a.vtt", vtt)) == "[00:01] Ann: Hello & welcome.\n\n[00:03] Bob: Thanks."
    srt = (
        "1\r\n00:00:01,000 --> 00:00:02,000\r\nこんにちは\r\n\r\n2\r\n00:00:02,000 --> 00:00:03,000\r\n{\\an8}世界\r\n"
    )
    assert text_of(write("a.srt", srt)) == "[00:00:01] こんにちは 世界"


def test_json(write: Write) -> None:
    records = [{"name": "Ann", "age": 3}, {"name": "Bob", "age": None}]
    assert text_of(write("a.json", json.dumps(records))) == "| name | age |\n| --- | --- |\n| Ann | 3 |\n| Bob |  |"
    nested = {"title": "Plan", "steps": ["a", "b"], "who": {"lead": "Ann", "ok": True}}
    assert (
        text_of(write("b.json", json.dumps(nested)))
        == "title: Plan\n\n# steps\n\n- a\n- b\n\n# who\n\nlead: Ann\nok: true"
    )
    lines = "\n".join(json.dumps({"n": i, "t": "x"}) for i in range(1100))
    titles = [page.title for page in load(write("c.jsonl", lines))]
    assert titles == ["records 1-500", "records 501-1000", "records 1001-1100"]
    with pytest.raises(UnreadableDocument, match=r"d\.json is damaged JSON at line 2 "):
        text_of(write("d.json", '{"a":\n"b'))
    with pytest.raises(UnreadableDocument, match=r"e\.json is (nested too deeply|damaged JSON)"):
        text_of(write("e.json", "[" * 200_000))


def test_asciidoc(write: Write) -> None:
    text = (
        "= Guide\n:toc:\n// no\n\n== Start\nSee https://x.org[the page] and <<a,that>>.\n\n* one\n** two\n. one\n\n"
        "[source,python]\n----\nx = [1]\n----\n\n.Cost\n|===\n|A |B\n\n|1\n|2\n|3 |4\n|===\n\ninclude::/etc/passwd[]\n"
    )
    assert text_of(write("a.adoc", text)) == (
        "# Guide\n\n## Start\nSee the page and that.\n\n"
        "- one\n    - two\n1. one\n\n```python\nx = [1]\n```\n\nCost\n\n"
        "| A | B |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\ninclude::/etc/passwd[]"
    )


def test_rtf_structure_and_code_pages(write: Write) -> None:
    rtf = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset128 MS Mincho;}}"
        rb"{\stylesheet{\s1 heading 1;}}"
        rb"{\info{\title secret}}"
        rb"{\pard\s1 Caf\'e9 \endash  \u26085?\u26412?\par}{\pard\f1 \'93\'fa\'96\'7b{\v hidden}\par}"
        rb"\pard{\listtext - }\ls1 one\par\pard{\listtext - }\ls1 two\par"
        rb"\trowd\pard\intbl a\cell b\cell\row\trowd\pard\intbl 1\cell 2\cell\row\pard end{\*\foo no}{\pict 00ff}\par}"
    )
    assert text_of(write("a.rtf", rtf)) == (
        "# Café – 日本\n\n日本\n\n- one\n- two\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nend"
    )
    with pytest.raises(UnreadableDocument, match="nested too deeply"):
        text_of(write("b.rtf", rb"{\rtf1 " + b"{" * 5000))


def test_feeds_and_articles(write: Write) -> None:
    feed = (
        '<?xml version="1.0"?><!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
        "<rss><channel><title>News</title>"
        "<item><title>One</title><pubDate>Today</pubDate><description>&lt;p&gt;Hi &lt;b&gt;you&lt;/b&gt;&lt;/p&gt;&x;"
        "</description></item></channel></rss>"
    )
    assert [(page.title, page.text) for page in load(write("a.xml", feed))] == [
        ("News", "# News"),
        ("One", "# One\n\nDate: Today\n\nHi you"),
    ]
    article = (
        "<article><front><article-meta><title-group><article-title>Ducks</article-title></title-group><contrib-group>"
        "<contrib><name><surname>Doe</surname><given-names>Ann</given-names></name></contrib></contrib-group>"
        "<abstract><p>Short.</p></abstract></article-meta></front><body><sec><title>How</title><p>We <i>saw</i>.</p>"
        "<table-wrap><label>Table 1.</label><caption><p>Counts</p></caption><table><tr><th>a</th><th>b</th></tr>"
        '<tr><td rowspan="2">1</td><td>2</td></tr><tr><td>3</td></tr></table></table-wrap></sec></body></article>'
    )
    assert text_of(write("a.nxml", article)) == (
        "# Ducks\n\nAnn Doe\n\n## Abstract\n\nShort.\n\n## How\n\nWe saw.\n\nTable 1. Counts\n\n"
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 1 | 3 |"
    )
    assert text_of(write("c.xml", "<a><b>One <i>two</i></b><c><d>Three</d></c></a>")) == "One two\n\nThree"


def test_office_files_of_before_2007() -> None:
    pytest.importorskip("kreuzberg")
    assert text_of(FILES / "word-97.doc") == "Test OLE file, saved as Word 97-2003 Document."
    (sheet,) = load(FILES / "excel-97.xls")
    assert (sheet.number, sheet.title) == (1, "Tabelle1")
    assert "This spreadsheet contains an embedded object" in sheet.text
    with pytest.raises(LockedDocument, match="needs a password"):
        text_of(FILES / "encrypted-97.xls")


def test_an_old_file_under_a_new_name_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes((FILES / "word-97.doc").read_bytes())
    with pytest.raises(UnreadableDocument, match=r"a\.docx is an old binary Office file: name it \.doc"):
        text_of(path)


def test_a_locked_workbook_opens_with_its_password(tmp_path: Path) -> None:
    book, plain = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["secret", "plan"])
    book.save(plain)
    path = tmp_path / "a.xlsx"
    with path.open("wb") as out:
        OOXMLFile(plain).encrypt("opensesame", out)
    with path.open("rb") as file:
        assert msoffcrypto.OfficeFile(file).is_encrypted()
    with pytest.raises(LockedDocument) as raised:
        text_of(path)
    assert raised.value.code == "password_required"
    with pytest.raises(LockedDocument, match="does not open with the password given"):
        list(load(path, options=Options(password="wrong")))
    assert [page.text for page in load(path, options=Options(password="opensesame"))] == ["secret | plan"]


def test_pictures_without_ocr_name_the_extra(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedDocument, match=r"a\.png is a picture: install the extra .*deepwell\[ocr\]"):
        list(load(tmp_path / "a.png", options=Options(ocr=False)))


def line(text: str, left: float, top: float, right: float, bottom: float) -> Line:
    return Line(text, 0.9, (left, top, right, bottom))


def test_rows_of_a_scan_stay_rows_and_columns_stay_columns() -> None:
    table = [line("78 bpm", 200, 11, 260, 21), line("Heart Rate", 0, 10, 90, 20), line("Status", 0, 60, 50, 70)]
    assert as_text(in_order(table)) == "Heart Rate | 78 bpm\n\nStatus"
    left = [line(f"left column line number {i}", 0, 20 * i, 300, 20 * i + 12) for i in range(1, 6)]
    right = [line(f"right column line number {i}", 330, 20 * i, 640, 20 * i + 12) for i in range(1, 6)]
    head = line("A heading over both of the columns", 100, 0, 540, 12)
    mixed = [one for pair in zip(right, left, strict=True) for one in pair]
    assert in_order([*mixed, head]) == [head, *left, *right]
