"""Bytes to text: every common encoding, declared or not, and nothing lost in silence."""

import codecs

import pytest

from pipelines.encoding import decode
from pipelines.errors import UnreadableDocument

JAPANESE = (
    "検索の結果は、利用者が読んだ文書の該当する箇所とともに示されます。"
    "文書を追加すると、数秒後には質問できるようになります。"
)
SIMPLIFIED = "检索的结果会连同用户所读文档的相应段落一起显示。添加文档以后，几秒钟之内就可以提问了。系统在本地运行。"
TRADITIONAL = "檢索的結果會連同使用者所讀文件的相應段落一起顯示。加入文件以後，幾秒鐘之內就可以提問了。系統在本機執行。"
KOREAN = "검색 결과는 사용자가 읽은 문서의 해당 부분과 함께 표시됩니다. 문서를 추가하면 몇 초 뒤에 질문할 수 있습니다."
FRENCH = "Le cœur a ses raisons que la raison ne connaît point ; où est passé l’été ? À bientôt, naïveté déjà vécue. "
GERMAN = "Die Straße führt über die Brücke nach München, wo größere Häuser für ältere Bürger stehen – 5 € Gebühr. "
RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью. "


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((JAPANESE, e) for e in ("utf-8", "utf-8-sig", "cp932", "euc_jp", "iso2022_jp", "utf-16", "utf-32")),
        *((JAPANESE + "\nEnd of file\n", e) for e in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")),
        *((SIMPLIFIED, e) for e in ("utf-8", "gb2312", "gbk", "gb18030", "utf-16")),
        *((TRADITIONAL, e) for e in ("utf-8", "big5", "cp950")),
        (KOREAN, "cp949"),
        *((text * 3, "cp1252") for text in (FRENCH, GERMAN)),
        *((RUSSIAN * 3, e) for e in ("cp1251", "koi8_r")),
        ("plain ASCII\r\n", "ascii"),
    ],
)
def test_common_encodings_are_recognised(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
@pytest.mark.parametrize("length", [12, 30])
def test_short_japanese_is_not_taken_for_chinese(encoding: str, length: int) -> None:
    assert decode(JAPANESE[:length].encode(encoding)) == JAPANESE[:length]


@pytest.mark.parametrize(
    "head",
    [
        '<?xml version="1.0" encoding="Shift_JIS"?>',
        '<meta charset="shift_jis">',
        '<meta http-equiv="Content-Type" content="text/html; charset=x-sjis">',
    ],
)
def test_a_declared_charset_decides_where_bytes_do_not(head: str) -> None:
    text = head + "ﾊﾝｶｸ"  # half-width katakana alone look like nothing in particular
    assert decode(text.encode("cp932")) == text


def test_a_charset_from_outside_is_tried_first() -> None:
    assert decode("ﾊﾝｶｸ".encode("cp932"), declared="Shift_JIS") == "ﾊﾝｶｸ"


def test_a_wrong_declaration_does_not_win_over_utf8() -> None:
    text = '<meta charset="shift_jis">' + JAPANESE
    assert decode(text.encode("utf-8")) == text


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + b"\xff\xfe broken",
        codecs.BOM_UTF16_LE + b"a",
        bytes(range(256)) * 8,
        b"\0\1\2\3" * 100,
    ],
)
def test_what_is_not_text_is_an_error_and_never_a_replacement_character(data: bytes) -> None:
    with pytest.raises(UnreadableDocument, match=r"notes\.txt"):
        decode(data, "notes.txt")
