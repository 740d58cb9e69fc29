"""Citations: every form models write, at every split point, and what they resolve to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.citations import CitationParser
from pipelines.types import Chunk, Hit


def hit(n: int, text: str = "The sky is blue. Grass is green. Snow is white.") -> Hit:
    chunk = Chunk(
        id=f"c{n}", document_id=f"d{n}", knowledge_base_id="kb", document=f"{n}.pdf", text=text, position=n, page=n
    )
    return Hit(chunk=chunk, score=1 / n)


HITS = [hit(1), hit(2), hit(3)]


def rendered(chunks: list[str]) -> tuple[str, list[int], int]:
    parser = CitationParser(HITS)
    text = "".join([*map(parser.feed, chunks), parser.close()])
    return text, [citation.n for citation in parser.citations()], parser.dropped


FORMS = {
    "plain": ("Blue [citation:1].", "Blue [1].", [1]),
    "side by side": ("Blue[citation:1][citation:2].", "Blue[1][2].", [1, 2]),
    "list": ("Blue [citation:1, 3].", "Blue [1][3].", [1, 3]),
    "list of marks": ("Blue [citation:1, citation:3].", "Blue [1][3].", [1, 3]),
    "range": ("Blue [1-3].", "Blue [1][2][3].", [1, 2, 3]),
    "lenticular brackets": ("青い【citation:1】。", "青い[1]。", [1]),
    "full-width colon": ("蓝色[citation：2]。", "蓝色[2]。", [2]),
    "number alone": ("Blue [1]. Green [2, 3].", "Blue [1]. Green [2][3].", [1, 2, 3]),
    "passage marker": ("See [webpage 2].", "See [2].", [2]),
    "unknown number": ("Blue [citation:9]. Green [citation:1][citation:7].", "Blue. Green [1].", [1]),
    "unknown alone": ("Blue [8].", "Blue.", []),
    "zero": ("Blue [citation:0].", "Blue.", []),
    "year": ("In [2024] it was.", "In [2024] it was.", []),
    "link": ("See [1](http://x) and [2].", "See [1](http://x) and [2].", [2]),
    "code span": ("Use `a[1]` here [1].", "Use `a[1]` here [1].", [1]),
    "fence": ("```\na[1] = [citation:2]\n```\nDone [3].", "```\na[1] = [citation:2]\n```\nDone [3].", [3]),
    "unfinished": ("Blue [citation:1", "Blue [citation:1", []),
    "other brackets": ("[note] a [b] [citation needed]", "[note] a [b] [citation needed]", []),
    "at the end": ("Blue [citation:2]", "Blue [2]", [2]),
    "nested": ("[[1]]", "[[1]]", [1]),
    "spaces": ("a  b [1] c ", "a  b [1] c ", [1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_at_every_split(form: str) -> None:
    text, expected, numbers = FORMS[form]
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            out = rendered([text[:first], text[first:second], text[second:]])
            assert out[:2] == (expected, numbers), (text[:first], text[first:second], text[second:])
    assert rendered(list(text))[:2] == (expected, numbers)


PIECES = ["[citation:1]", "[", "]", "【", "】", "citation", ":", "：", "1", "2", "9", "17", ",", "、", "-"]
ALPHABET = st.sampled_from([*PIECES, "(", "`", "```", "a", "。", "[1]", "[webpage 3]", " ", "\n", "\t", "x" * 50])


@settings(max_examples=400, deadline=None)
@given(st.lists(ALPHABET, max_size=25), st.data())
def test_splitting_changes_nothing(tokens: list[str], data: st.DataObject) -> None:
    text = "".join(tokens)
    whole = rendered([text])
    assert rendered(list(text)) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert rendered([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(ALPHABET, max_size=25))
def test_every_citation_that_stays_has_a_passage(tokens: list[str]) -> None:
    parser = CitationParser(HITS)
    parser.feed("".join(tokens))
    parser.close()
    assert all(1 <= citation.n <= len(HITS) for citation in parser.citations())


def test_a_citation_quotes_the_sentence_that_supports_it() -> None:
    parser = CitationParser(HITS)
    parser.feed("In winter the snow is white [citation:1]. The colour of grass: green.[citation:2]")
    parser.close()
    first, second = parser.citations()
    assert (first.quote, first.chunk_id, first.document_id, first.document, first.page) == (
        "Snow is white.",
        "c1",
        "d1",
        "1.pdf",
        1,
    )
    assert second.quote == "Grass is green."


def test_quotes_in_japanese_and_chinese() -> None:
    hits = [hit(1, "有給休暇は年20日です。申請は3日前までに行います。"), hit(2, "年假为每年二十天。申请须提前三天。")]
    parser = CitationParser(hits)
    parser.feed("休暇の申請は3日前まで[citation:1]。申请要提前三天[citation:2]。")
    parser.close()
    assert [citation.quote for citation in parser.citations()] == ["申請は3日前までに行います。", "申请须提前三天。"]


def test_text_is_not_held_back_longer_than_a_mark() -> None:
    parser = CitationParser(HITS)
    assert parser.feed("Hello") == "Hello"
    assert parser.feed(" [cit") == ""
    assert parser.feed("izen]") == " [citizen]"
