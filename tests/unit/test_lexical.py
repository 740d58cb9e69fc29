"""Words of texts in several scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lexical import segmented, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Quick brown foxes", ["the", "quick", "brown", "fox"]),
        ("Refunded, refunding: refunds!", ["refund"] * 3),
        ("naïve Café", ["naiv", "cafe"]),
        ("ＦＵＬＬ　ｗｉｄｔｈ ﬁne", ["full", "width", "fine"]),
        ("E4711 XJ-900 3.14 snake_case", ["e4711", "xj", "900", "3", "14", "snake", "case"]),
        ("有給休暇", ["有給", "給休", "休暇"]),
        ("パスワードを忘れた", ["パス", "スワ", "ワー", "ード", "ドを", "を忘", "忘れ", "れた"]),
        ("ﾊﾟｽﾜｰﾄﾞ", ["パス", "スワ", "ワー", "ード"]),
        ("水是H2O", ["水是", "h2o"]),
        ("人", ["人"]),
        ("北京，上海", ["北京", "上海"]),
        ("휴가 신청", ["휴가", "신청"]),
        ("Müller прошёл", ["muller", "прошел"]),
        ("東京2020オリンピック", ["東京", "2020", "オリ", "リン", "ンピ", "ピッ", "ック"]),
        ("々〆人々", ["々〆", "〆人", "人々"]),
        ("?!… \n\t", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_blob_is_one_bounded_word() -> None:
    assert words("a" * 100_000) == ["a" * 64]


@given(st.text())
def test_segmented_text_splits_at_spaces_into_the_same_words(text: str) -> None:
    assert segmented(text).split() == words(text)


@given(st.text())
def test_full_width_and_upper_case_forms_are_the_same_words(text: str) -> None:
    assert words(text.upper().lower()) == words(text.upper())


@given(st.text(alphabet="あいうえお漢字東京", min_size=2))
def test_every_pair_of_neighbours_can_be_found(text: str) -> None:
    found = set(words(text))
    assert {text[i : i + 2] for i in range(len(text) - 1)} == found
