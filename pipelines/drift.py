"""Whether an answer leaves the language of its question, noticed while it streams.

Models of the R1 family fall into Chinese or English. What counts is running text: code, addresses, quotes and block
quotes are left out, and a text in the wrong Latin language must show the small words of that language, so that names,
commands and titles are never taken for one. A question that asks for another language ("translate …") is not watched.

The beginning is held back only while it might be wrong: the first kana of a Japanese answer, or the first Chinese
character of a Chinese one, lets go. Then a sample is looked at every few sentences. All of it costs well below a
microsecond a token.
"""

import re
from collections.abc import Mapping
from functools import cached_property

from pipelines.language import CODE, ENGLISH_NAMES, HAN, KANA, Language

#: bytes between two looks at an answer under way
STEP = 240
#: characters looked at, up to twice as many
WINDOW = 240
#: an answer is held back for at most so many characters
HOLD = 240
#: letters that make a language sure enough to repair an answer that has been shown, and one that has not
ENOUGH, ENOUGH_HELD = 80, 48


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: small words by language: each is frequent in its language and no word of the others
SMALL_WORDS: Mapping[str, frozenset[str]] = {
    "English": _words(
        "the of and to is are that it for with as was be this by from have has not which you can will their its an"
        " they or should must when what there been how many where who why does did do my i we our your you"
    ),
    "French": _words(
        "le les des est une dans pour que qui vous avec sur sont pas ce cette aux il elle ou par plus être nous du"
        " au peut votre mais ces doit et"
    ),
    "German": _words(
        "der die das und ist nicht ein eine mit für auf den dem von zu sie werden im auch sich bei oder wenn als"
        " wird kann sind des einen nach"
    ),
    "Spanish": _words(
        "el los las una por con para que es se del al su más como son esta este pero lo puede debe sus está y"
    ),
    "Italian": _words(
        "il che di è per con una sono non gli della del nel anche si dei alla può questo come più le essere ha"
    ),
    "Portuguese": _words(
        "o os as uma não que é para com do da em são dos das ao mais como pode se por você seu sua no na"
    ),
    "Dutch": _words(
        "het een van en is dat niet op te zijn voor met aan door ook worden bij wordt kan moet deze naar uit"
    ),
}
_SPEAKS_FOR = {
    word: tuple(name for name, small in SMALL_WORDS.items() if word in small)
    for word in frozenset[str]().union(*SMALL_WORDS.values())
}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_LETTER = re.compile(r"[^\W\d_]")
_QUOTED = re.compile(r"(?m)^\s*>.*$|「[^」]*」?|『[^』]*』?|“[^”]*”?|«[^»]*»?|\"[^\"\n]*\"?|‘[^’\n]*’|《[^》]*》?")
#: text in which none of these three patterns can match, but for addresses
_PLAIN = re.compile(r"[^`<>\[\"「『“«‘《]*")
_NO_LETTERS = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
_PAIRS = (("「", "」"), ("『", "』"), ("“", "”"), ("«", "»"), ("《", "》"))
_MARKS = re.compile(r"\[(?:citation|webpage)?[\s:：\d,]*\]|https?://\S+|<[^>\n]{1,80}>")
#: a question that wants another language than its own, or is about languages
_WANTS_ANOTHER = re.compile(
    r"translat|in (?:english|french|german|spanish|italian|portuguese|dutch|japanese|chinese|korean|russian)\b"
    r"|\b(?:english|french|german|spanish|italian|portuguese|dutch|japanese|chinese|korean|russian|mandarin|kanji|kana"
    r"|pinyin)\b|en (?:anglais|français|español|inglés)|auf (?:englisch|deutsch|französisch)|traduc|traduis|traduz"
    r"|übersetz|翻译|翻譯|翻訳|訳し|訳す|和訳|英訳|中訳|译成|译为|英文|英语|英語|日文|日语|日本語|中文|中国語|汉语|漢語|韩语|韓国語"
    r"|フランス語|ドイツ語|法语|德语|用[^，。]{1,6}语|言語|语言|語言",
    re.IGNORECASE,
)


def latin_language(text: str, least: int = 3) -> str:
    """The language of text in Latin letters by its small words; "" if fewer than `least` speak for one."""
    words = [word.lower() for word in _WORD.findall(text)]
    counts = dict.fromkeys(SMALL_WORDS, 0)
    for word in words:
        for name in _SPEAKS_FOR.get(word, ()):
            counts[name] += 1
    best, second = sorted(counts.values(), reverse=True)[:2]
    if best < least or best * 2 < second * 3 or best * 8 < len(words):
        return ""
    return next(name for name, count in counts.items() if count == best)


class LanguageGuard:
    """Feed it an answer's text, get what may be shown; `drifted` names the language it has fallen into, if it has."""

    def __init__(self, language: Language, question: str = "", *, fixed: bool = False) -> None:
        """`language` is the one wanted; `fixed`: by setting, whatever the question says."""
        self._expected = language
        self._question, self._fixed = question, fixed
        self._open = False  # what comes is shown at once
        self._held = ""
        self._window = ""
        self._since = 0
        #: the language the answer is in instead, in English; "" while all is well
        self.drifted = ""

    @cached_property
    def _latin(self) -> str:
        """The Latin language wanted; "" if the question is too short to tell, and then none is wrong."""
        return "English" if self._fixed else latin_language(self._question, 1)

    @cached_property
    def _off(self) -> bool:
        """Whether nothing is to be judged. Found out at the first doubt: most answers need no look at the question."""
        if self._fixed:
            return False
        # "en" stands for every language that is neither Japanese nor Chinese: other scripts than Latin are not judged
        other = self._expected == "en" and not _mostly(_LATIN, self._question)
        return other or _WANTS_ANOTHER.search(self._question) is not None

    @property
    def wanted(self) -> str:
        """The language wanted, in English."""
        return self._latin or "English" if self._expected == "en" else ENGLISH_NAMES[self._expected]

    def feed(self, text: str) -> str:
        """Take the next piece; return what may be shown. After `drifted` is set nothing more is."""
        if not self._open:
            return self._hold(text)
        self._window = _trimmed(self._window + text)
        self._since += len(text.encode())
        if self._since >= STEP:
            self._since = 0
            self.drifted = self._judge(self._window, ENOUGH)
        return text

    def waits(self) -> bool:
        """Whether text is held back."""
        return not self._open

    def close(self) -> str:
        """Take the end: what was held back and not found wrong."""
        held, self._held = self._held, ""
        if self.drifted:
            return ""
        self.drifted = self._judge(held or self._window, ENOUGH if self._open else ENOUGH_HELD)
        self._open = True
        return "" if self.drifted else held

    def _hold(self, text: str) -> str:
        self._held += text
        if not CODE.search(self._held) and self._doubtful(_prose(self._held)) and not self._off:
            self.drifted = self._judge(self._held, ENOUGH_HELD)
            if self.drifted or len(self._held) < HOLD:
                return ""
        self._open = True
        self._window, self._held = self._held, ""
        return self._window

    def _doubtful(self, shown: str) -> bool:
        if self._expected == "en":
            return not _LATIN.search(shown) and _LETTER.search(shown) is not None
        if self._expected == "ja":
            return not KANA.search(shown)
        han = len(HAN.findall(shown))  # a Japanese sentence may begin with one
        return not han or (han < 12 and KANA.search(shown) is not None)

    def _judge(self, text: str, enough: int) -> str:
        """The wrong language `text` is in, "" if it is right or nothing is certain."""
        if len(text) < enough // 2 or self._off:
            return ""
        text = _prose(text)
        if text.isascii():  # the same as below, several times cheaper
            return self._other_latin(text) if _ascii_letters(text) >= enough else ""
        return self._judge_scripts(text, enough)

    def _judge_scripts(self, text: str, enough: int) -> str:
        letters = len(_LETTER.findall(text))
        kana, han, hangul = (len(script.findall(text)) for script in (KANA, HAN, _HANGUL))
        if letters < enough and kana + han + hangul < enough // 2:
            return ""
        sure = bool(self._latin) or self._expected != "en"
        if hangul * 2 > letters:
            return "Korean" if sure else ""
        if (kana + han) * 2 > letters:
            return self._other_east_asian(kana, han) if kana + han >= enough // 2 else ""
        if len(_LATIN.findall(text)) * 10 > letters * 9:
            return self._other_latin(text) if letters >= enough else ""
        return "Russian" if sure and len(_CYRILLIC.findall(text)) * 10 > letters * 9 else ""

    def _other_east_asian(self, kana: int, han: int) -> str:
        """For a text that is mostly kana and Chinese characters."""
        if kana * 12 < han:
            return "" if self._expected == "zh" else "Chinese"
        sure = self._expected == "en" or (self._expected == "zh" and kana * 4 > kana + han)
        return "Japanese" if sure else ""

    def _other_latin(self, text: str) -> str:
        """For a text that is mostly Latin letters."""
        if self._expected != "en":
            return latin_language(text, 4)
        found = latin_language(text, 8) if self._latin else ""
        return "" if found == self._latin else found


def _trimmed(text: str) -> str:
    """The end of a long text; what code or quote the place of the cut stands in is opened again."""
    if len(text) <= 2 * WINDOW:
        return text
    cut, kept = text[:-WINDOW], text[-WINDOW:]
    if cut.count("```") % 2:
        return "```" + kept
    line = cut.rpartition("\n")[2]
    opened = "".join(mark for mark, end in _PAIRS if line.count(mark) > line.count(end))
    return (">" if line.lstrip().startswith(">") else "") + opened + ('"' if line.count('"') % 2 else "") + kept


def _prose(text: str) -> str:
    """Text without code, quotes, addresses and marks."""
    if _PLAIN.fullmatch(text) and "http" not in text:
        return text
    return _QUOTED.sub(" ", _MARKS.sub(" ", CODE.sub(" ", text)))


def _mostly(script: re.Pattern[str], text: str) -> bool:
    return len(script.findall(text)) * 2 > len(_LETTER.findall(text))


def _ascii_letters(text: str) -> int:
    return len(text.encode().translate(None, _NO_LETTERS))
