"""The splitter's promises: offsets, nothing lost, sizes, structure, and ids that survive an edit elsewhere."""

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.markup import clean
from pipelines.splitters import PAGE_BREAK, chunk_id, passage_text, split
from pipelines.types import Chunk, Page

SIZE = 40


def count(texts: Sequence[str]) -> list[int]:
    """A tokenizer's likeness: a wide character is a token, other characters are a quarter of one."""
    return [-(-sum(1 if char.isascii() else 4 for char in text) // 4) for text in texts]


def cut(*pages: Page, size: int = SIZE, overlap: int = 8) -> list[Chunk]:
    return split(
        pages, document_id="d1", knowledge_base_id="k1", document="a.md", count_tokens=count,
        chunk_tokens=size, overlap=overlap,
    )  # fmt: skip


def cut_text(text: str, size: int = SIZE, overlap: int = 8) -> list[Chunk]:
    return cut(Page(text=text), size=size, overlap=overlap)


WORDS = st.sampled_from(["duck", "Goose", "3.5", "Dr. Ng", "池", "鸭子游泳", "カモが泳ぐ", "x" * 90, "é", "e.g. this"])
ENDS = st.sampled_from([". ", "? ", "。", "！", ", ", " ", "\n", "\n\n", "；", "... "])
PROSE = st.lists(st.tuples(WORDS, ENDS), min_size=1, max_size=40).map(lambda pairs: "".join(map("".join, pairs)))
BLOCKS = st.one_of(
    PROSE,
    st.integers(1, 6).map(lambda level: f"{'#' * level} Heading {level}"),
    st.tuples(st.integers(1, 12), st.integers(2, 5)).map(
        lambda shape: "\n".join(
            ["|" + " h |" * shape[1], "|" + " --- |" * shape[1], *["|" + " cell |" * shape[1]] * shape[0]]
        )
    ),
    st.integers(1, 12).map(lambda lines: "```\n" + "value = 1\n" * lines + "```"),
    st.text(max_size=200),
)
PAGES = st.lists(
    st.builds(
        lambda blocks, number, title: Page(text=clean("\n\n".join(blocks)), number=number, title=title),
        st.lists(BLOCKS, min_size=1, max_size=5),
        st.sampled_from([None, 1, 2]),
        st.sampled_from(["", "", "Sheet 1", "Sheet 2"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(pages=PAGES, size=st.integers(8, 60), overlap=st.integers(0, 30))
def test_offsets_cover_sizes_and_ids(pages: list[Page], size: int, overlap: int) -> None:
    chunks = cut(*pages, size=size, overlap=overlap)
    text = PAGE_BREAK.join(page.text for page in pages)
    covered = bytearray(len(text))
    for position, chunk in enumerate(chunks):
        shown = text[chunk.start : chunk.end].replace(PAGE_BREAK, "\n")
        repeats_header = chunk.text.endswith("\n" + shown) and chunk.text.startswith("|")
        assert chunk.text == shown or repeats_header
        assert chunk.text.strip()
        assert chunk.position == position
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
        assert count([chunk.text])[0] <= size + 1 or len(shown) == 1
    assert all(flag or char.isspace() for flag, char in zip(covered, text, strict=True))
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert chunks == cut(*pages, size=size, overlap=overlap)


def article(seed: int, paragraphs: int = 120) -> list[str]:
    """Paragraphs of random sentences without any heading: the hard case for stable boundaries."""
    random_ = random.Random(seed)
    vocabulary = ["".join(random_.choices("abcdefghijk", k=random_.randint(3, 9))) for _ in range(500)]
    sentence = lambda: " ".join(random_.choices(vocabulary, k=random_.randint(5, 14))).capitalize() + "."  # noqa: E731
    return [" ".join(sentence() for _ in range(random_.randint(2, 6))) for _ in range(paragraphs)]


@pytest.mark.parametrize("seed", range(5))
def test_an_edit_in_the_middle_leaves_far_chunks_alone(seed: int) -> None:
    paragraphs = article(seed)
    before = cut_text("\n\n".join(paragraphs), size=100, overlap=10)
    paragraphs[60] = "An entirely new thing is said here. " + paragraphs[60][10:]
    after = cut_text("\n\n".join(paragraphs), size=100, overlap=10)
    assert len({chunk.id for chunk in before} - {chunk.id for chunk in after}) <= 12
    assert {chunk.id for chunk in before[:40]} | {chunk.id for chunk in before[-40:]} <= {chunk.id for chunk in after}


def test_headings_are_kept_as_a_path_and_begin_chunks() -> None:
    body = "The duck swims in the pond all day long. " * 3
    chunks = cut_text(f"# Birds\n\n{body}\n\n## Ducks\n\n{body}\n\n# Fish\n\n{body}", size=60, overlap=0)
    assert [chunk.heading for chunk in chunks] == ["Birds", "Birds > Ducks", "Fish"]
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# Birds", "## Ducks", "# Fish"]
    assert passage_text(chunks[1]).startswith("Birds > Ducks. ## Ducks\n\nThe duck")


def test_small_sections_are_joined_under_what_they_share() -> None:
    [chunk] = cut_text("# A\n\n## B\n\nshort\n\n## C\n\nalso short", size=60)
    assert chunk.heading == "A"


def test_a_table_that_fits_is_never_torn() -> None:
    table = "| Kind | Size |\n| --- | --- |\n" + "| Mallard | 50 cm |\n" * 5
    prose = "A sentence about ducks that fills the passage. " * 4
    chunks = cut_text(f"{prose}\n\n{table}\n{prose}", size=60, overlap=0)
    assert [chunk for chunk in chunks if table.strip() in chunk.text]
    assert sum("Mallard" in chunk.text for chunk in chunks) == 1


def test_a_large_table_is_cut_between_rows_and_its_header_repeated() -> None:
    header = "| Number | Square |\n| --- | --- |"
    rows = [f"| {i} | {i * i} |" for i in range(60)]
    text = "\n".join((header, *rows))
    chunks = cut_text(text, size=60)
    assert len(chunks) > 3
    shown = [line for chunk in chunks for line in chunk.text.removeprefix(header).strip().split("\n")]
    assert shown == rows
    assert all(chunk.text.startswith(header) for chunk in chunks)
    assert text[chunks[1].start : chunks[1].end] == chunks[1].text.removeprefix(header + "\n")


def test_code_that_fits_is_never_torn() -> None:
    code = "```python\nfor duck in pond:\n\n    duck.swim()\n```"
    prose = "Ducks swim. " * 8
    assert any(code in chunk.text for chunk in cut_text(f"{prose}\n\n{code}\n\n{prose}", size=40))


def test_sentences_of_each_language_are_kept_whole() -> None:
    for sentence in ("これは池で泳ぐ鴨の話です。", "这是池塘里游泳的鸭子的故事！", "Dr. Ng saw 3.5 ducks. "):
        for chunk in cut_text(sentence * 30, size=50, overlap=0):
            assert len(chunk.text.rstrip()) % len(sentence.rstrip()) in range(31)
            assert chunk.text.startswith(sentence[:4])
            assert chunk.text.endswith(sentence.rstrip()[-1])


def test_neighbours_share_whole_sentences_up_to_the_overlap() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(40))
    chunks = cut_text(text, size=60, overlap=20)
    for before, after in pairwise(chunks):
        shared = text[after.start : before.end]
        assert 0 < count([shared])[0] <= 20
        assert re.fullmatch(r"(Sentence number \d+ is here\. ?)+", shared)


def test_pages_are_kept_and_prose_may_go_on_over_them() -> None:
    pages = [Page(text=f"Page {i} begins here and goes on\nuntil it ends.", number=i) for i in range(1, 7)]
    chunks = cut(*pages, size=40, overlap=0)
    assert chunks[0].page == 1
    assert chunks[-1].page_end == 6
    assert any(chunk.page != chunk.page_end for chunk in chunks)
    assert all("\f" not in chunk.text for chunk in chunks)
    assert all(f"Page {chunk.page} " in chunk.text for chunk in chunks)


def test_sheets_and_slides_are_not_mixed() -> None:
    chunks = cut(Page(text="tiny", number=1, title="One"), Page(text="small", number=2, title="Two"))
    assert [(chunk.text, chunk.heading, chunk.page) for chunk in chunks] == [("tiny", "One", 1), ("small", "Two", 2)]


def test_headings_of_pdf_pages_hold_over_their_ends_but_tables_and_code_are_text_there() -> None:
    body = " ".join(f"Sentence number {i} is here." for i in range(12))
    pages = (Page(text=f"## Leave\n\n{body}", number=1), Page(text=f"{body}\n # no heading\n```\n{body}", number=2))
    chunks = cut(*pages)
    assert {chunk.heading for chunk in chunks} == {"Leave"}
    assert chunks[-1].page == 2
    assert " # no heading\n```" in "\n".join(chunk.text for chunk in chunks)


def test_a_giant_run_without_any_break_is_cut_hard() -> None:
    for text in ("x" * 5000, "鴨" * 3000, "\u0301" * 50):
        chunks = cut_text(text, overlap=0)
        assert "".join(chunk.text for chunk in chunks) == text
        assert all(count([chunk.text])[0] <= SIZE for chunk in chunks)


def test_repeated_text_gets_numbered_ids() -> None:
    page = "The same sentence stands on each page of this document, whatever the page says."
    chunks = cut(*(Page(text=page, number=i, title="Same") for i in range(1, 5)), size=20, overlap=0)
    assert len({chunk.text for chunk in chunks}) < len(chunks)
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert chunk_id("d", "t", 0) != chunk_id("d", "t", 1) != chunk_id("e", "t", 1)


def test_nothing_comes_of_nothing() -> None:
    assert cut() == []
    assert cut(Page(text=""), Page(text=" \n ")) == []


def test_tokens_are_counted_in_few_calls() -> None:
    calls: list[int] = []

    def counting(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return count(texts)

    split([Page(text="\n\n".join(article(1)))], document_id="d", knowledge_base_id="k", document="n",
          count_tokens=counting, chunk_tokens=100, overlap=10)  # fmt: skip
    assert len(calls) == 1


def test_the_page_of_a_passage_is_the_one_that_holds_most_of_it() -> None:
    pages = [Page(text="A last line of the page.", number=1), Page(text="Then follows much more. " * 8, number=2)]
    chunks = split(
        pages, document_id="d", knowledge_base_id="k", document="x.pdf", count_tokens=count, chunk_tokens=300, overlap=0
    )
    assert [(chunk.page, chunk.page_end) for chunk in chunks] == [(2, 2)]
