"""Ruled tables of PDFs, on files made here: kept as tables, over a page break too, never losing a letter."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pypdfium2
import pytest

from pipelines.loaders import Options, _tables, load
from tests.pdfs import pdf

WIDTH, HEIGHT, LEFT = 120, 20, 72


def text(x: float, y: float, words: str) -> str:
    return f"BT /F1 10 Tf {x} {y} Td ({words}) Tj ET\n"


def ruled(rows: Sequence[Sequence[str]], top: float) -> str:
    """Drawing commands of a table whose upper edge is `top` points above the lower edge of the page."""
    columns, bottom = len(rows[0]), top - HEIGHT * len(rows)
    lines = [
        f"{LEFT} {top - HEIGHT * i} m {LEFT + WIDTH * columns} {top - HEIGHT * i} l S" for i in range(len(rows) + 1)
    ]
    lines += [f"{LEFT + WIDTH * i} {top} m {LEFT + WIDTH * i} {bottom} l S" for i in range(columns + 1)]
    words = [
        text(LEFT + WIDTH * j + 4, top - HEIGHT * i - 14, cell)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
    ]
    return "\n".join([*lines, *words])


def page(*drawn: str) -> str:
    """For tests.pdfs.pdf, which writes one line of text: ends that line and draws the rest."""
    return "Report) Tj ET\n" + "".join(drawn) + "BT ("


def read(path: Path, **options: object) -> list[str]:
    return [each.text for each in load(path, options=Options(ocr=False, tables=True, **options))]  # type: ignore[arg-type]


def test_a_table_stands_where_it_stood_and_reads_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    rows = [["Plan", "Price", "Seats"], ["Basic", "10", "5"], ["Large", "90", "500"]]
    path.write_bytes(pdf(page(text(72, 690, "Before it."), ruled(rows, 670), text(72, 590, "After it."))))
    [found] = read(path)
    table = "| Plan | Price | Seats |\n| --- | --- | --- |\n| Basic | 10 | 5 |\n| Large | 90 | 500 |"
    assert found == f"Report\nBefore it.\n\n{table}\n\nAfter it."
    assert "|" not in "".join(each.text for each in load(path, options=Options(ocr=False)))


def test_a_table_that_goes_on_has_its_header_on_every_page(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    rows = [["Year", "Result"], *([str(1900 + i), f"{i} points"] for i in range(25))]
    rest, other = [["1925", "25 points"], ["1926", "26 points"]], [["Name", "City"], ["Ito", "Kyoto"]]
    path.write_bytes(pdf(page(ruled(rows, 700)), page(ruled(rest, 700)), page(ruled(other, 400))))
    first, second, third = read(path)
    assert first.count("\n|") == len(rows) + 1
    assert "| Year | Result |\n| --- | --- |\n| 1925 | 25 points |\n| 1926 | 26 points |" in second
    assert "| Name | City |" in third
    assert "Year" not in third


def test_figures_below_each_other_are_rows_and_wrapped_words_are_not() -> None:
    assert _tables._split(["1\r\n2", "3\r\n4", "5\r\n6", "both"]) == [("1", "3", "5", "both"), ("2", "4", "6", "both")]
    assert _tables._split(["Unit\r\nprice", "Last\r\naudit", "Total\r\nvalue"]) == [
        ("Unit price", "Last audit", "Total value")
    ]


def test_a_frame_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(page(ruled([["Nothing but a frame"]], 600))))
    assert read(path) == ["Report\nNothing but a frame"]


def test_a_table_whose_cells_lack_letters_stays_lines() -> None:
    document = pypdfium2.PdfDocument(pdf(page(text(LEFT, 600, "a1 b2"), text(LEFT, 580, "c3 d4"))))
    content = document[0].get_textpage()
    words = content.get_text_range()
    box = (0.0, 100.0, 612.0, 400.0)
    whole = _tables.Table(box, (72.0, 90.0), (("a1", "b2"), ("c3", "d4")), 792.0)
    lacking = _tables.Table(box, (72.0, 90.0), (("a1", "b2"), ("c3", "")), 792.0)
    tables = [lacking]
    assert (_tables.take_out(content, words, tables), tables) == (words, [])
    tables = [whole]
    marked = _tables.take_out(content, words, tables)
    assert (len(marked), tables) == (len(words), [whole])
    assert "c3" not in marked


def test_a_locked_or_damaged_file_fails_as_without_tables(tmp_path: Path) -> None:
    from pipelines.errors import UnreadableDocument

    path = tmp_path / "damaged.pdf"
    path.write_bytes(b"%PDF-1.4\nnothing")
    with pytest.raises(UnreadableDocument, match="is a damaged PDF"):
        read(path)


def test_without_the_extra_the_text_comes_and_a_remark_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tables, "is_installed", lambda: False)
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(page(ruled([["Plan", "Price"], ["Basic", "10"]], 600))))
    remarks: list[str] = []
    assert "Basic" in read(path, remark=remarks.append)[0]
    assert remarks == [f"its tables stay lines of text: {_tables.MISSING}"]


def test_tables_of_a_real_report(shared: Path) -> None:
    report = shared / "data" / "financebench" / "BESTBUY_2024Q2_10Q.pdf"
    pages = [each.text for each in islice(load(report, options=Options(ocr=False, tables=True)), 4)]
    assert "| Gross profit |  | 2,220 |  | 2,287 |  | 4,370 |  | 4,640 |" in pages[3]
    plain = [each.text for each in islice(load(report, options=Options(ocr=False)), 4)]
    letters = [sum(map(str.isalnum, "".join(each))) for each in (pages, plain)]
    assert letters[0] >= 0.999 * letters[1]
