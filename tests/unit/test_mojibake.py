"""Damaged UTF-8 is made whole, and only that."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mojibake import repair

JAPANESE = "検索の結果は、利用者が読んだ文書とともに示されます。「文書」を追加すると、質問できます。"
CHINESE = "检索的结果会连同用户所读文档的相应段落一起显示。添加文档以后，几秒钟之内就可以提问了。"
GERMAN = "Die Straße führt über die Brücke nach München, wo größere Häuser stehen – „schön“."
WORDS = dict.fromkeys(
    ["検索", "の", "結果", "は", "、", "利用者", "が", "読んだ", "文書", "とともに", "示されます",
     "。", "「", "」", "を", "追加", "すると", "質問", "できます"], -5.0,
)  # fmt: skip


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "mac_roman", "cp1251"])
@pytest.mark.parametrize("text", [JAPANESE, CHINESE, GERMAN])
def test_nothing_lost_is_exact(text: str, encoding: str) -> None:
    try:
        damaged = text.encode().decode(encoding)
    except UnicodeDecodeError:
        pytest.skip("this encoding has no character for one of the bytes")
    found = repair(damaged)
    assert found is not None
    assert (found.text, found.damaged, found.confidence) == (text, 0, 1.0)


@pytest.mark.parametrize("encoding", ["cp1252", "cp1254"])
def test_lost_bytes_are_filled_with_what_makes_words(encoding: str) -> None:
    damaged = JAPANESE.encode().decode(encoding, "ignore").replace("\xad", "")
    assert len(damaged) < len(JAPANESE.encode())
    found = repair(damaged, lambda: WORDS)
    assert found is not None
    assert (found.text, found.encoding) == (JAPANESE, encoding)
    assert 0 < found.guessed <= found.damaged
    assert found.confidence < 1
    assert found.text.encode().decode(encoding, "ignore").replace("\xad", "") == damaged


def test_lost_bytes_are_not_guessed_without_words() -> None:
    assert repair(JAPANESE.encode().decode("cp1252", "ignore")) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "plain", JAPANESE, CHINESE, GERMAN, "Où est passé l’été ? Ça m’a coûté 5 €, déjà vécu.", "√2 ≈ 1.4",
        "Ãœber", "Все люди рождаются свободными и равными", "İstanbul’da güneşli bir gün, çok güzel; ağaçlar âşık.",
    ],
)  # fmt: skip
def test_whole_text_is_left_alone(text: str) -> None:
    found = repair(text, lambda: WORDS)
    assert found is None or (text == "Ãœber" and found.text == "Über")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_a_repair_always_damages_back(text: str) -> None:
    found = repair(text, dict)
    if found is not None:
        assert found.text.encode().decode(found.encoding, "ignore").replace("\xad", "") == text.replace("\xad", "")
