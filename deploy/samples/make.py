"""Builds the PDF, DOCX, PPTX, XLSX, CSV and Shift_JIS samples from the texts beside this file.

    python deploy/samples/make.py

Needs `fpdf2`, `python-docx`, `python-pptx`, `openpyxl`, and the fonts DejaVu Sans, IPA Gothic and Droid Sans Fallback
(Debian: fonts-dejavu-core fonts-ipafont-gothic fonts-droid-fallback). The results are committed; run it after a change
of a text. Markup: `# title`, `## heading`, `- item`, `| cell | cell |` with the head row first, `---` for a new page.
"""

import csv
import datetime
from itertools import groupby
from pathlib import Path

import docx
import pptx
from fpdf import FPDF
from openpyxl import Workbook
from openpyxl.styles import Font

SOURCE = Path(__file__).parent
SAMPLES = SOURCE.parents[1] / "samples"
FONTS = Path("/usr/share/fonts")
DEJAVU = FONTS / "truetype/dejavu/DejaVuSans.ttf"
FONT_OF = {
    "en": DEJAVU,
    "ja": FONTS / "opentype/ipafont-gothic/ipag.ttf",
    "zh": FONTS / "truetype/droid/DroidSansFallbackFull.ttf",
}
DATE = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)

Block = tuple[str, list[str]]

MODELS = [
    ("Model", "Parameters (billion)", "Layers", "Q4_K_M file (GB)", "16-bit weights (GiB)", "KV per token (bytes)"),
    ("DeepSeek-R1-Distill-Qwen-1.5B", 1.78, 28, 1.1, 3.3, 28672),
    ("DeepSeek-R1-Distill-Qwen-7B", 7.62, 28, 4.7, 14.2, 57344),
    ("DeepSeek-R1-Distill-Llama-8B", 8.03, 32, 4.9, 15.0, 131072),
    ("DeepSeek-R1-0528-Qwen3-8B", 8.19, 36, 5.0, 15.3, 147456),
    ("DeepSeek-R1-Distill-Qwen-14B", 14.77, 48, 9.0, 27.5, 196608),
    ("DeepSeek-R1-Distill-Qwen-32B", 32.76, 64, 19.8, 61.0, 262144),
    ("DeepSeek-R1-Distill-Llama-70B", 70.55, 80, 42.5, 131.4, 327680),
    ("DeepSeek-R1", 671.03, 61, 404.4, None, 70272),
]
NOTES = [
    ("Question", "Answer"),
    (
        "Where do the sizes come from?",
        "Computed from the published dimensions of each model; files differ by a few MB.",
    ),
    ("What is GB, what is GiB?", "1 GB is 1,000,000,000 bytes, 1 GiB is 1,073,741,824 bytes."),
    ("Why has DeepSeek-R1 no 16-bit figure?", "Its native format is FP8: about 671 GB of weights."),
    (
        "Why is the KV cache of DeepSeek-R1 so small?",
        "It uses multi-head latent attention, which stores one small vector.",
    ),
    ("What else needs memory?", "Activations, the runtime and the context of every answer that is being written."),
]
TERMS = [
    ("term", "japanese", "chinese", "meaning"),
    ("knowledge base", "知識ベース", "知识库", "a named collection of documents that are asked together"),
    ("document", "文書", "文档", "one file or web page, as a citation names it"),
    ("chunk", "チャンク", "片段", "a passage of a document: what is embedded, found and cited"),
    ("embedding", "埋め込み", "嵌入", "the list of numbers that stands for the meaning of a text"),
    ("dense search", "ベクトル検索", "向量检索", "search by similarity of embeddings"),
    ("lexical search", "キーワード検索", "关键词检索", "search by words, scored with BM25"),
    ("hybrid search", "ハイブリッド検索", "混合检索", "dense and lexical search joined into one list"),
    ("reranking", "リランキング", "重排序", "a second, slower model puts the best passages in order"),
    ("citation", "出典", "引用", "the number in an answer that leads to the passage it rests on"),
    ("reasoning", "思考過程", "思考过程", "what a reasoning model writes before its answer"),
    ("quantisation", "量子化", "量化", "storing weights with fewer bits, e.g. four instead of sixteen"),
    ("distillation", "蒸留", "蒸馏", "training a small model on the output of a large one"),
    (
        "context window",
        "コンテキスト長",
        "上下文窗口",
        "how many tokens a model can take in at once, its answer included",
    ),
    ("token", "トークン", "词元", "the unit in which a model reads and writes: a word or a part of one"),
    ("abstention", "回答の保留", "拒答", "saying that the documents do not answer the question"),
]


def blocks(name: str) -> list[Block]:
    """Parse a source text into (kind, lines); neighbouring lines of one kind stay together."""

    def kind(line: str) -> str:
        marks = (("---", "page"), ("## ", "heading"), ("# ", "title"), ("- ", "item"), ("|", "row"))
        return next((name for mark, name in marks if line.startswith(mark)), "text")

    lines = [line for line in (SOURCE / name).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(key, [line.lstrip("#-").strip() for line in group]) for key, group in groupby(lines, kind)]


def cells(row: str) -> list[str]:
    """The cells of `| a | b |`."""
    return [cell.strip() for cell in row.strip("|").split("|")]


def make_pdf(source: str, target: str, language: str) -> None:
    """A PDF whose text can be extracted: embedded subset fonts with a map back to Unicode."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(DATE)
    pdf.set_lang(language)
    pdf.add_font("body", fname=FONT_OF[language])
    pdf.add_font("latin", fname=DEJAVU)
    pdf.set_fallback_fonts(["latin"])
    pdf.set_auto_page_break(True, margin=20)
    pdf.set_margins(22, 20)
    pdf.add_page()
    wrap = "WORD" if language == "en" else "CHAR"
    for kind, lines in blocks(source):
        if kind == "page":
            pdf.add_page()
        elif kind == "row":
            pdf.set_font("body", size=9.5)
            with pdf.table(line_height=6, first_row_as_headings=False, wrapmode=wrap) as table:
                for line in lines:
                    row = table.row()
                    for cell in cells(line):
                        row.cell(cell)
            pdf.ln(3)
        else:
            for line in lines:
                pdf.set_font("body", size={"title": 17, "heading": 12.5}.get(kind, 10.5))
                pdf.multi_cell(
                    0,
                    {"title": 10, "heading": 8}.get(kind, 6),
                    line,
                    align="L",
                    wrapmode=wrap,
                    new_x="LMARGIN",
                    new_y="NEXT",
                )
                pdf.ln(2)
    pdf.set_title(blocks(source)[0][1][0])
    pdf.output(str(SAMPLES / target))


def make_docx(source: str, target: str) -> None:
    """A Word document with real headings, lists and tables."""
    document = docx.Document()
    document.core_properties.created = document.core_properties.modified = DATE
    for kind, lines in blocks(source):
        if kind == "row":
            table = document.add_table(rows=0, cols=len(cells(lines[0])), style="Table Grid")
            for line in lines:
                for cell, text in zip(table.add_row().cells, cells(line), strict=True):
                    cell.text = text
        elif kind == "page":
            document.add_page_break()
        else:
            for line in lines:
                if kind in {"title", "heading"}:
                    document.add_heading(line, level=1 if kind == "title" else 2)
                else:
                    document.add_paragraph(line, style="List Bullet" if kind == "item" else None)
    document.save(str(SAMPLES / target))


def make_pptx(source: str, target: str) -> None:
    """One slide for each title; items become its text."""
    deck = pptx.Presentation()
    deck.core_properties.created = deck.core_properties.modified = DATE
    slide = None
    for kind, lines in blocks(source):
        if kind == "title":
            slide = deck.slides.add_slide(deck.slide_layouts[1])
            slide.shapes.title.text = lines[0]
        elif slide is not None:
            slide.placeholders[1].text = "\n".join(lines)
    deck.save(str(SAMPLES / target))


def make_xlsx(target: str) -> None:
    """Two sheets: the models' sizes, and notes on them."""
    book = Workbook()
    book.properties.created = book.properties.modified = DATE.replace(tzinfo=None)
    for sheet, rows in ((book.active, MODELS), (book.create_sheet("Notes"), NOTES)):
        for row in rows:
            sheet.append(row)
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        for column in sheet.columns:
            sheet.column_dimensions[column[0].column_letter].width = max(len(str(cell.value)) for cell in column) + 2
    book.worksheets[0].title = "Models"
    book.save(str(SAMPLES / target))


def main() -> None:
    """Build every sample that is not written by hand."""
    make_pdf("handbook.md", "en/handbook.pdf", "en")
    make_pdf("telework.md", "ja/telework-and-leave.pdf", "ja")
    make_pdf("memory.md", "zh/memory-sizing.pdf", "zh")
    make_docx("expenses.md", "zh/expenses-and-leave.docx")
    make_docx("milvus.md", "ja/choosing-milvus.docx")
    make_pptx("first-week.md", "ja/first-week.pptx")
    make_xlsx("en/model-sizes.xlsx")
    with (SAMPLES / "en/terms.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(TERMS)
    (SAMPLES / "ja/faq.txt").write_bytes((SOURCE / "faq.txt").read_text(encoding="utf-8").encode("cp932"))


if __name__ == "__main__":
    main()
