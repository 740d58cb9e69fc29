"""UTF-8 that somebody read in another encoding and saved again ("ã‚ã‚Œ" for "あれ"), made whole.

Two kinds. If no byte was lost, reading it back is exact. If the other encoding had no character for some bytes (cp1252
for 5, cp1254 for 7) these are gone; what each place can have been is a short list, and the likeliest words of a
vocabulary decide. Either way a repair is accepted only if damaging it again gives the text as it was found.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

#: log probability of words, e.g. the pieces of the embedding model's vocabulary
Words = Mapping[str, float]

#: encodings that text is wrongly read in; the first ones leave bytes out
_LOSSY = ("cp1252", "cp1254", "cp1250", "cp1258")
_SINGLE = ("cp1252", "latin-1", "cp1254", "cp1250", "cp1251", "cp437", "mac_roman")
_EXACT = (*_SINGLE, "cp932", "gb18030", "big5")
_SOFT_HYPHEN = "\xad"
#: such pairs among the characters beyond ASCII, at least
_DENSITY = 0.1
#: leads whose bytes are all there, at least; in Japanese up to 45 % lose one, since 0x81 leads most kana
_WHOLE = 0.35
_UNKNOWN = -18.0
_LONGEST = 12


def _signs() -> re.Pattern[str]:
    """What the lead bytes of UTF-8 look like in the encodings above, followed by something beyond ASCII."""
    leads = {bytes([code]).decode(e, "ignore") for code in range(0xC2, 0xF5) for e in _SINGLE}
    return re.compile(f"[{''.join(sorted(leads))}][^\\x00-\\x7f]|縺|繧|繝|鐨|銆|锛|涓|嚗|蝔")


_SIGNS = _signs()


@dataclass(frozen=True, slots=True)
class Repair:
    """A text made whole."""

    text: str
    #: the encoding that it was wrongly read in
    encoding: str
    #: characters that had lost bytes, and those of them for which there was more than one choice
    damaged: int = 0
    guessed: int = 0

    @property
    def confidence(self) -> float:
        """Share of the characters that are right, a tenth of the guesses taken for wrong (measured: a twentieth)."""
        return round(1 - 0.1 * self.guessed / max(1, len(self.text)), 3)


def repair(text: str, words: Callable[[], Words] | None = None) -> Repair | None:
    """The text as it was meant, or None if it does not look damaged or no repair damages back to it.

    `words` gives the vocabulary that decides where bytes are missing; it is only called then. Without it such a text is
    left alone.
    """
    if text.isascii() or not _is_suspect(text):
        return None
    for encoding in _EXACT:
        plain = _exact(text, encoding)
        if plain is not None:
            return Repair(plain, encoding)
    if words is None:
        return None
    found = [likely for encoding in _LOSSY if (likely := _lossy(text, encoding, words)) is not None]
    return max(found, key=lambda likely: likely[0])[1] if found else None


def _is_suspect(text: str) -> bool:
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return len(_SIGNS.findall(text)) >= max(1, _DENSITY * beyond)


def _exact(text: str, encoding: str) -> str | None:
    try:
        plain = text.encode(encoding).decode("utf-8")
    except UnicodeError:
        return None
    return plain if plain.encode("utf-8").decode(encoding, "replace") == text and _is_plausible(plain) else None


def _is_plausible(text: str) -> bool:
    odd = sum(unicodedata.category(char) in ("Cn", "Co", "Cs", "Cc") for char in text if char > "\x7f")
    return odd * 50 <= sum(char > "\x7f" for char in text)


def _lost_bytes(encoding: str, text: str) -> bytes:
    gone = [code for code in range(0x80, 0xC0) if not bytes([code]).decode(encoding, "ignore")]
    return bytes(gone if _SOFT_HYPHEN in text else [*gone, 0xAD])


def _lossy(text: str, encoding: str, words: Callable[[], Words]) -> tuple[float, Repair] | None:
    """The likeliest repair for one encoding, with its log probability."""
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        return None
    lost = _lost_bytes(encoding, text)
    places = _places(data, lost)
    if places is None:
        return None
    vocabulary = words()
    if not vocabulary:
        return None
    chooser = _Chooser(vocabulary)
    chosen = [chooser.text(run) for run in _runs(places)]
    plain = _closed("".join(run for _, run in chosen), places)
    again = plain.encode("utf-8").decode(encoding, "ignore")
    again = again if _SOFT_HYPHEN in text else again.replace(_SOFT_HYPHEN, "")
    if again != text or not _is_plausible(plain):
        return None
    damaged = [place for place in places if len(place) > 1]
    repaired = Repair(plain, encoding, len(damaged), sum(map(chooser.is_open, damaged)))
    return sum(score for score, _ in chosen), repaired


def _places(data: bytes, lost: bytes) -> list[Sequence[str]] | None:
    """What stands at each place: one character, or those that it can have been. None if this is no damaged UTF-8."""
    places: list[Sequence[str]] = []
    leads = whole = index = 0
    while index < len(data):
        lead = data[index]
        index += 1
        if lead < 0x80:
            places.append((chr(lead),))
            continue
        need = 1 if 0xC2 <= lead < 0xE0 else 2 if 0xE0 <= lead < 0xF0 else 3 if 0xF0 <= lead < 0xF5 else 0
        end = index
        while end < len(data) and end - index < need and 0x80 <= data[end] < 0xC0:
            end += 1
        found = _candidates(lead, data[index:end], need, lost) if need else []
        if not found:
            return None
        leads, whole, index = leads + 1, whole + (end - index == need), end
        places.append(found)
    return places if leads >= 5 and whole >= _WHOLE * leads else None


def _candidates(lead: int, present: bytes, need: int, lost: bytes) -> list[str]:
    """Characters whose bytes begin with `lead` and hold those that are left in their order."""
    found: set[str] = set()
    for kept in combinations(range(need), len(present)):
        for filling in product(lost, repeat=need - len(present)):
            left, gone = iter(present), iter(filling)
            code = bytes([lead, *(next(left) if place in kept else next(gone) for place in range(need))])
            try:
                found.add(code.decode("utf-8"))
            except UnicodeDecodeError:
                continue
    return sorted(char for char in found if unicodedata.category(char) not in ("Cn", "Co", "Cs"))


def _runs(places: Sequence[Sequence[str]]) -> Iterator[Sequence[Sequence[str]]]:
    """Runs that are chosen together: they end at ASCII, and at stops."""
    start = 0
    for index, place in enumerate(places):
        if len(place) == 1 and (place[0] < "\x80" or place[0] in "。、！？"):
            yield places[start : index + 1]
            start = index + 1
    yield places[start:]


def _closed(text: str, places: Sequence[Sequence[str]]) -> str:
    """Close brackets that were opened in a line, where a comma was the likelier word but a bracket fits too."""
    chars, opened = list(text), False
    for index, char in enumerate(chars):
        if char in "「」\n":
            opened = char == "「"
        elif opened and char == "、" and "」" in places[index]:
            chars[index], opened = "」", False
    return "".join(chars)


class _Chooser:
    """Picks the likeliest text by words (Viterbi over a lattice of words)."""

    def __init__(self, words: Words) -> None:
        self._words = {word: score for word, score in words.items() if len(word) <= _LONGEST and word >= "\x80"}
        self._prefixes = {word[:length] for word in self._words for length in range(1, len(word))}

    def is_open(self, place: Sequence[str]) -> bool:
        """Whether more than one of the characters is in use, so that the choice was a guess."""
        return sum(char in self._words for char in place) > 1

    def text(self, places: Sequence[Sequence[str]]) -> tuple[float, str]:
        """The likeliest reading of a run, with its log probability; 0 where there is no choice."""
        if all(len(place) == 1 for place in places):
            return 0.0, "".join(place[0] for place in places)
        best: list[tuple[float, str]] = [(0.0, "")] + [(float("-inf"), "")] * len(places)
        for start, (score, before) in enumerate(best):
            if start < len(places):
                for word, value in self._from(places, start):
                    end = start + len(word)
                    if score + value > best[end][0]:
                        best[end] = (score + value, before + word)
        return best[-1]

    def _from(self, places: Sequence[Sequence[str]], start: int) -> Iterator[tuple[str, float]]:
        """Words that can begin here, and every single character."""
        for char in places[start]:
            yield char, self._words.get(char, _UNKNOWN)
        front = [char for char in places[start] if char in self._prefixes]
        for place in places[start + 1 : start + _LONGEST]:
            grown = [word + char for word in front for char in place]
            for word in grown:
                if word in self._words:
                    yield word, self._words[word]
            front = [word for word in grown if word in self._prefixes]
            if not front:
                return
