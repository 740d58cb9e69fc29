"""Words of a text for the full-text leg: one segmentation for every index, so that all of them find the same.

Latin, Cyrillic, Greek … words are folded (NFKC, lower case, no accents) and cut to their English stem (Snowball;
nDCG@10 of this leg on cranfield 0.347 without, 0.362 plural s only, 0.375 with); numbers and names with digits stay
whole. Chinese, Japanese and Korean runs, which have no reliable word borders, become
overlapping pairs of characters (a run of one character stays as it is): the usual dictionary-free choice, as in
Lucene's CJKAnalyzer. Words are joined with spaces; an index only has to split at white space.
"""

import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from snowballstemmer.english_stemmer import EnglishStemmer

#: scripts cut into pairs: Han, kana with the long-vowel and iteration marks, Bopomofo, Hangul
_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\u3105-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_FIRST = re.compile(f"[{_CJK}]")
_RUN = re.compile(f"([{_CJK}]+)|([^\\W_{_CJK}]+)")
#: name of these rules, kept with each index: change it with them
SEGMENTATION = "1"
#: share of a question in Chinese or Japanese that its names and numbers are, when the passages have no such script
NAMES_ALONE = 0.5
_ENGLISH = EnglishStemmer()
_ONE_AT_A_TIME = threading.Lock()
#: letters a word is cut at: longer "words" are base64, hashes and the like, found by their beginning
_LONGEST = 64


def words(text: str) -> list[str]:
    """Words of `text` in order, with repetitions; [] if it has none. None of them holds white space."""
    found: list[str] = []
    for cjk, word in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if word:
            found.append(_fold(word[:_LONGEST]))
        elif len(cjk) == 1:
            found.append(cjk)
        else:
            found.extend(map("".join, pairwise(cjk)))
    return found


def segmented(text: str) -> str:
    """The words of `text` joined with spaces: what an index with a white-space tokenizer stores."""
    return " ".join(words(text))


def reachable(known: Mapping[str, float], unknown: Sequence[str], rare: float) -> float:
    """Weight that a passage with every word of the question would have: what coverage is a share of.

    `known` gives the idf of words that some passage has, `rare` that of a word that none has. A question in Chinese or
    Japanese about passages in another script can share names and numbers with them at most. They then count as half
    of the question: enough to be listened to, not enough to be sure by them alone.
    """
    total = sum(known.values()) + rare * len(unknown)
    pairs = sum(weight for word, weight in known.items() if _is_cjk(word))
    all_pairs = pairs + rare * sum(map(_is_cjk, unknown))
    if pairs >= all_pairs / 10:
        return total
    return min(total, (total - all_pairs) / NAMES_ALONE) or total


def _is_cjk(word: str) -> bool:
    return _CJK_FIRST.match(word) is not None


@lru_cache(maxsize=131072)
def _fold(word: str) -> str:
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    if not (word.isascii() and word.isalpha()):
        return word
    with _ONE_AT_A_TIME:  # a stemmer keeps the word it works on
        stem: str = _ENGLISH.stemWord(word)
    return stem
