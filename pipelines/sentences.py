"""Sentences of a passage in English, Japanese and Chinese, and how much two of them say the same."""

import re

#: longest sentence handed out as a quote, in characters
QUOTE_LIMIT = 320

_END = re.compile(
    r"(?<=[。！？!?])(?![」』”’\"'）)])|(?<=[.!?][\"'”’)])\s+|(?<=[.])\s+(?=[\"'“‘(\[A-ZÀ-Þ0-9*#-])|\n\s*\n|\n(?=\s*[-*#|•・\d])"
)
_TERM = re.compile(r"[a-z0-9à-ɏ]+(?:[.'-][a-z0-9]+)*|[\u3040-\u30ff\u3400-\u9fff]+")
_COMMON = frozenset(
    re.findall(
        r"\S+",
        "a an and are as at be by do does did for from has have how in is it its of on or that the their this to "
        "was were what when where which who why will with you your can could should i me my we our us not no if "
        "about into than then there ",
    )
)


def sentences(text: str) -> list[str]:
    """Sentences of a passage, in order, white space folded, none empty."""
    parts = (" ".join(part.split()) for part in _END.split(text) if part)
    return [part for part in parts if part]


def terms(text: str) -> set[str]:
    """What a sentence is about: words, and pairs of neighbouring characters for Japanese and Chinese."""
    found: set[str] = set()
    for token in _TERM.findall(text.lower()):
        if token[0] < "\u3040":
            if token not in _COMMON:
                found.add(_stem(token))
        else:
            found.update(token[i : i + 2] for i in range(max(1, len(token) - 1)))
    return found


def overlap(question: set[str], sentence: set[str]) -> float:
    """Share of the question's terms that the sentence has, 0..1, less for very long sentences."""
    if not question or not sentence:
        return 0.0
    shared = len(question & sentence)
    return shared / len(question) * (1 - min(0.3, len(sentence) / 400))


def best_sentence(passage: str, claim: str) -> str:
    """The passage's sentence that best matches `claim`; its first one if none does. At most QUOTE_LIMIT characters."""
    candidates = sentences(passage)
    if not candidates:
        return ""
    wanted = terms(claim)
    best = max(candidates, key=lambda sentence: overlap(wanted, terms(sentence)))
    return shorten(best)


def shorten(sentence: str, limit: int = QUOTE_LIMIT) -> str:
    """The sentence, cut at a word with an ellipsis if it is too long."""
    if len(sentence) <= limit:
        return sentence
    cut = sentence[: limit - 1]
    space = cut.rfind(" ", limit // 2)
    return (cut[:space] if space > 0 else cut) + "…"


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
