"""Bytes to text in whatever encoding they are, strictly: a character that cannot be read is an error, never U+FFFD."""

import codecs
import re
import unicodedata
from collections.abc import Iterable

from pipelines.errors import UnreadableDocument

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
# What a declared name means in practice: the superset that browsers use (WHATWG Encoding Standard, section 4.2).
_ALIASES = {
    "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932", "windows-31j": "cp932",
    "ms_kanji": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs",
    "x-x-big5": "big5hkscs", "big5-hkscs": "big5hkscs", "euc-kr": "cp949", "ks_c_5601-1987": "cp949",
    "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252", "iso-8859-9": "cp1254",
    "x-euc-jp": "euc_jp", "utf8": "utf-8", "unicode": "utf-16",
}  # fmt: skip
_DECLARED = re.compile(
    rb"""(?:<\?xml[^>]{0,200}?encoding|<meta[^>]{0,400}?charset|@charset|coding)\s*[=:]?\s*["']?([A-Za-z0-9_:.-]{2,40})""",
    re.IGNORECASE,
)
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœŸ")
_WESTERN_SIGNS = frozenset("€‚„…†‡‰‹‘’“”•–—™›\xa0¡¢£¥§¨©ª«®¯°±²³´µ¶·¸¹º»¼½¾¿×÷")
_SIGN_IN_WORD = re.compile(r"[^\W\d_][¡¢£¥¦¨¯±³¶¹¼¾¿]|[¡¢£¥¦¨¯±³¶¹¼¾¿×÷][a-z]")
_SPACE = re.compile("[ -~\\n\u3000-\u30ff]")
_EVERYDAY = re.compile("[ -~\xa0-\u052f\u2010-\u204f\u3000-\u30ff\u4e00-\u9fa5\uac00-\ud7a3\uff00-\uffef]")
_SAMPLE = 64 * 1024
# Multi-byte candidates; each has its rows of everyday characters, which its makers put first.
_CJK = ("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949")
_CONTROLS = frozenset(range(32)) - {9, 10, 12, 13, 27}


def decode(data: bytes, name: str = "The file", declared: str = "") -> str:
    """Text of `data`: byte order mark first, then UTF-8, what the file declares, and what the bytes look like.

    `declared` is a charset that came from outside (an HTTP header). Raises UnreadableDocument if the bytes are not
    text, or in no encoding that reads all of them; `name` is how the message calls the document.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _strict(data, encoding, name)
    if _is_utf8(data):
        return data.decode("utf-8") if b"\x1b$" not in data else _escaped(data)
    guess = _utf16_or_32(data)
    if guess:
        return _strict(data, guess, name)
    if _looks_binary(data):
        raise UnreadableDocument(f"{name} is not text: it holds binary data")
    for candidate in _candidates(data, declared):
        text = _try(data, candidate)
        if text is not None and not _implausible(text):
            return text
    raise UnreadableDocument(f"{name} is in no encoding Deepwell can tell: save it as UTF-8 and add it again")


def _strict(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise UnreadableDocument(
            f"{name} is {encoding.upper()} but damaged at {where}: save it again as UTF-8"
        ) from None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data[:_SAMPLE]


def _escaped(data: bytes) -> str:
    """ISO-2022-JP is plain ASCII with escape sequences (RFC 1468), so it passes as UTF-8."""
    for encoding in ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004", "iso2022_kr"):
        text = _try(data, encoding)
        if text is not None:
            return text
    return data.decode("utf-8")


def _utf16_or_32(data: bytes) -> str:
    """UTF-16 or UTF-32 without a mark: line ends and spaces put zero bytes at regular places."""
    sample = data[:_SAMPLE]
    if b"\0" not in sample:
        return ""
    best, best_score = "", 0.6
    for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        text = _try(sample[: len(sample) // width * width], encoding) if len(data) % width == 0 else None
        score = _everyday(text) if text and _SPACE.search(text) else 0.0
        if score > best_score:
            best, best_score = encoding, score
    return best


def _everyday(text: str) -> float:
    """Share of characters that ordinary text is made of; rare scripts and unassigned code points count against."""
    good = bad = 0
    for char in text[:4096]:
        point = ord(char)
        if char in "\t\r\n" or _EVERYDAY.match(char):
            good += 1
        elif point < 0x20 or unicodedata.category(char) in ("Cn", "Co", "Cs"):
            bad += 4
        else:
            bad += 1
    return (good - bad) / max(1, good + bad)


def _looks_binary(data: bytes) -> bool:
    sample = data[:_SAMPLE]
    controls = sum(sample.count(bytes([code])) for code in _CONTROLS)
    return controls * 100 > len(sample)


def _candidates(data: bytes, declared: str) -> Iterable[str]:
    yield from _names(data, declared)
    yield from _ranked_cjk(data)
    if _is_western(data[:_SAMPLE].decode("cp1252", "replace")):
        yield "cp1252"
    yield from _single_byte(data)


def _names(data: bytes, declared: str) -> Iterable[str]:
    found = _DECLARED.search(data[:2048])
    for given in (declared, found.group(1).decode("ascii") if found else ""):
        name = given.strip().lower()
        if name and not name.startswith(("utf-16", "utf-32", "utf-8")):
            yield _ALIASES.get(name, name)


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _implausible(text: str) -> bool:
    """Control codes of the C1 range and private characters: what a wrong guess leaves behind."""
    sample = text[:_SAMPLE]
    odd = sum(1 for char in sample if "\x7f" <= char < "\xa0" or "\ue000" <= char < "\uf900")
    return odd * 50 > len(sample)


def _ranked_cjk(data: bytes) -> list[str]:
    """East Asian encodings that read all bytes, the likeliest first; only those that look like real text."""
    scores = {}
    for encoding in _CJK:
        text = _try(data, encoding)
        if text is not None:
            scores[encoding] = _score(text[:_SAMPLE], encoding)
    return sorted((e for e in scores if scores[e] > 0.5), key=lambda e: -scores[e])


def _score(text: str, encoding: str) -> float:
    """Mean over the characters beyond ASCII: 1 for everyday ones of the encoding's language, down to -2 for odd ones.

    JIS, GB 2312, Big5 and KS X 1001 each list their everyday characters first, so the row of a character says how
    common it is. Kana decide between EUC-JP and GB 2312, which share their places.
    """
    weigh = _japanese if encoding in ("cp932", "euc_jp") else _chinese if encoding != "cp949" else _korean
    total = count = 0.0
    for char in text:
        if char >= "\x80":
            count += 1
            point = ord(char)
            if 0x2010 <= point < 0x2040:
                total += 0.6
            elif 0xFE30 <= point < 0xFE70:
                total -= 0.5
            else:
                total += weigh(char, encoding)
    return total / count if count else 0.0


def _japanese(char: str, encoding: str) -> float:
    point = ord(char)
    if 0x3040 <= point < 0x3100:
        return 1.3
    if 0x3000 <= point < 0x3040 or 0xFF01 <= point <= 0xFF5E:
        return 0.8
    if 0xFF61 <= point <= 0xFF9F:
        return -0.3
    row = _row(char, "euc_jp")
    if row == 0 and 0x4E00 <= point < 0xA000:  # kanji that Microsoft and IBM added, of personal names mostly
        return 0.0
    return 0.8 if 16 <= row < 48 else -0.2 if 48 <= row < 85 else 0.2 if 1 <= row < 9 else -1.5


def _chinese(char: str, encoding: str) -> float:
    point = ord(char)
    if 0x3000 <= point < 0x3040 or 0xFF01 <= point <= 0xFF5E:
        return 0.8
    if 0x3040 <= point < 0x3100:
        return 0.3
    if encoding == "gb18030":
        row = _row(char, "gb2312")
        return 1.0 if 16 <= row < 56 else -0.2 if 56 <= row < 88 else 0.2 if 1 <= row < 10 else -1.0
    lead = _lead(char, "big5")
    return 1.0 if 0xA4 <= lead < 0xC7 else -0.2 if 0xC9 <= lead < 0xFA else 0.2 if 0xA1 <= lead < 0xA4 else -1.0


def _korean(char: str, encoding: str) -> float:
    if "\uac00" <= char <= "\ud7a3":
        return 1.1 if 16 <= _row(char, "euc_kr") < 41 else -0.5
    row = _row(char, "euc_kr")
    return 0.2 if 1 <= row < 4 else -0.6


def _row(char: str, encoding: str) -> int:
    """Row (1-94) of a character in a 94 x 94 set; 0 if it is not there."""
    lead = _lead(char, encoding)
    return lead - 0xA0 if lead > 0xA0 else 0


def _lead(char: str, encoding: str) -> int:
    try:
        code = char.encode(encoding)
    except UnicodeEncodeError:
        return 0
    return code[0] if len(code) == 2 else 0


def _is_western(text: str) -> bool:
    """Whether bytes read as cp1252 give Western European words: few accents, and no symbols inside words.

    Cyrillic and Greek come out as accents only, Polish with symbols in words, Czech and Turkish with rare letters.
    """
    letters = sum(char.isalpha() for char in text)
    beyond = [char for char in text if char >= "\x80"]
    accents = sum(char in _WESTERN for char in beyond)
    known = all(char in _WESTERN or char in _WESTERN_SIGNS for char in beyond)
    return known and accents <= 0.35 * letters and len(_SIGN_IN_WORD.findall(text)) * 150 <= len(text)


def _single_byte(data: bytes) -> Iterable[str]:
    """Western, Cyrillic and other one-byte encodings, by charset-normalizer's language models."""
    from charset_normalizer import from_bytes

    for match in from_bytes(data[:_SAMPLE]):
        if not match.encoding.startswith(("big5", "cp932", "cp949", "cp950", "euc", "gb", "hz", "johab", "shift")):
            yield match.encoding  # the others were weighed before
    yield "cp1252"
