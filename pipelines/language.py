"""The language a question is written in, by script: cheap enough for every request, no model.

Told apart are the languages that Deepwell has prompts and sentences in. Kana is Japanese. Without kana, the
characters decide: what the Japanese standard set (JIS X 0208) has and the Chinese one (GB 2312) has not, or the other
way round, and, where both have everything, words that only one of the languages uses.
"""

import re
from typing import Literal

Language = Literal["en", "ja", "zh"]

#: what languages are called in an instruction to a model
NAMES: dict[Language, str] = {"en": "English", "ja": "日本語", "zh": "中文"}
#: and in a warning
ENGLISH_NAMES: dict[Language, str] = {"en": "English", "ja": "Japanese", "zh": "Chinese"}

KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u30fc\uff66-\uff9f]")
HAN = re.compile(r"[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[A-Za-zÀ-ɏͰ-ϿЀ-ӿ]+(?:['’-][A-Za-z]+)*")
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_ENGLISH = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|should|the|of|to|in|and"
    r"|for|an|please|translate|explain|tell|give|me|it|this|that|with|from|mean|means)\b",
    re.IGNORECASE,
)
# Function words of Chinese that written Japanese does not use by themselves.
_CHINESE = re.compile(
    r"[的吗嗎么麼哪这這您你我们們了呢吧把被谁怎请给说]|什么|什麼|請問|幾[天個次年月]|是否|如何|多少|哪些|为何|為何|有没有|是什"
)
# Words of Japanese offices written with characters that Chinese has too.
_JAPANESE = re.compile(
    r"[々〆働込畑辻峠枠匂]|会社|株式|手当|残業|勤務|規程|休暇|有給|社員|上司|部署|見積|請求書|領収書|出張|名刺|年末年始|取締役|申請方法"
    r"|一覧|手順|締切|担当者|承認|届出|期限切|払戻"
)


def detect(text: str) -> Language:
    """Language of a question: "ja", "zh", or "en" for everything else."""
    if text.isascii():
        return "en"
    text = CODE.sub(" ", text)
    kana, han = len(KANA.findall(text)), HAN.findall(text)
    if not kana and not han:
        return "en"
    words = len(_WORD.findall(text))
    if words * 2 >= kana + len(han) and _ENGLISH.search(text):
        return "en"
    # A Chinese question may quote a Japanese word; a Japanese sentence has more kana than that.
    if kana and not (kana * 8 < len(han) or (kana * 3 < len(han) and _CHINESE.search(text))):
        return "ja"
    return _by_characters("".join(han), text)


def _by_characters(han: str, text: str) -> Language:
    chinese, japanese = len(_CHINESE.findall(text)), len(_JAPANESE.findall(text))
    if chinese or japanese:
        return "zh" if chinese >= japanese else "ja"
    only_japanese = sum(not _has("gb2312", character) and _has("shift_jis", character) for character in set(han))
    only_chinese = sum(not _has("shift_jis", character) for character in set(han))
    return "ja" if only_japanese > only_chinese else "zh"


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
