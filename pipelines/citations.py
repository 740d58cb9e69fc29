"""Citations in a streamed answer: what models write becomes `[n]`, and every n that stays points to a passage.

R1's search template asks for `[citation:X]`. Models also write `[citation:1][citation:2]`, `[citation:1,2]`,
`【citation:1】`, `[webpage 1]`, `[1]`, `[1, 2]` and `【1】`. All become `[1][2]`. A number without a passage is
dropped. Markdown code and Markdown links are left alone.
"""

import re
from collections.abc import Sequence

from pipelines.markdown import CodeTracker
from pipelines.sentences import best_sentence
from pipelines.types import Citation, Hit

#: longest mark looked for, in characters; longer brackets are ordinary text
MARK_LIMIT = 48
#: how far back the sentence that cites is looked for, in characters
CLAIM_LIMIT = 400

_WORDS = r"(?:citations?|webpage|web page|passage|source|引用|来源|出典|資料|资料)"
_NUMBERS = rf"\d{{1,3}}(?:\s*[-–,，、;；]\s*(?:{_WORDS}\s*[:：]?\s*)?\d{{1,3}})*"
_MARK = re.compile(rf"[ \t]?[\[【]\s*(?P<word>{_WORDS}\s*[:：]?)?\s*(?P<numbers>{_NUMBERS})\s*[\]】]", re.IGNORECASE)
_BEGIN = re.compile(r"[ \t]?(?:[\[【][\w\s:：,，、;；–-]*)?\Z")
_NUMBER = re.compile(r"(\d{1,3})(?:\s*[-–]\s*(\d{1,3}))?")
_ENDS = ".!?。！？\n"
_SENTENCE_END = re.compile(f"[{_ENDS}]")


class CitationParser:
    """Feed it the answer's text, get text with `[n]`; afterwards `citations()` resolves them. O(n)."""

    __slots__ = ("_claims", "_code", "_held", "_hits", "_tail", "dropped")

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self._code = CodeTracker()
        self._held = ""
        self._tail = ""  # the last characters of the answer, for choosing a quote
        self._claims: dict[int, str] = {}
        #: how many numbers pointed to no passage
        self.dropped = 0

    def feed(self, text: str) -> str:
        """Take the next piece of the answer; return what is certain by now."""
        if not self._held and "[" not in text and "【" not in text and not text.endswith((" ", "\t")):
            self._follow(text)
            return text
        return self._scan(self._held + text, last=False)

    def waits(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def close(self) -> str:
        """Take the end of the answer; return what was held back."""
        return self._scan(self._held, last=True)

    def citations(self) -> tuple[Citation, ...]:
        """The passages cited so far, by number, each with the sentence of it that best matches the citing one."""
        return tuple(cite(self._hits[n - 1], n, self._claims[n]) for n in sorted(self._claims))

    def _scan(self, buffer: str, last: bool) -> str:
        self._held = ""
        out: list[str] = []
        position = 0
        for match in _MARK.finditer(buffer):
            if not last and match.end() == len(buffer):
                break  # the next character may make it a Markdown link
            before = buffer[position : match.start()]
            self._follow(before)
            out.append(before)
            out.append(self._render(match, buffer[match.end() : match.end() + 1]))
            position = match.end()
        rest = buffer[position:]
        keep = 0 if last else self._hold(rest)
        self._follow(rest[: len(rest) - keep])
        out.append(rest[: len(rest) - keep])
        self._held = rest[len(rest) - keep :]
        return "".join(out)

    def _hold(self, rest: str) -> int:
        """Length of the end of `rest` that may be the beginning of a mark, or a mark at the very end."""
        tail = rest[-MARK_LIMIT - 1 :]
        begin = max(tail.rfind("["), tail.rfind("【"))
        if begin >= 0:
            if begin and tail[begin - 1] in " \t":
                begin -= 1
            end = tail[begin:]
            if len(end) <= MARK_LIMIT and (_BEGIN.match(end) or _MARK.fullmatch(end)):
                return len(end)
        return 1 if rest.endswith((" ", "\t")) else 0

    def _render(self, match: re.Match[str], after: str) -> str:
        text = match.group()
        if len(text) > MARK_LIMIT or self._code.fenced() or self._code.inline() or after == "(":
            self._follow(text)
            return text
        numbers = _numbers(match.group("numbers"))
        known = [n for n in numbers if 1 <= n <= len(self._hits)]
        if not known and not match.group("word") and text.strip()[0] == "[" and (not self._hits or max(numbers) > 99):
            self._follow(text)
            return text  # "[2024]" and the like: not a citation
        self.dropped += len(numbers) - len(known)
        claim = self._claim() if known else ""
        for n in known:
            self._claims.setdefault(n, claim)
        marks = "".join(f"[{n}]" for n in known)
        return (" " if marks and text[0] in " \t" else "") + marks

    def _follow(self, text: str) -> None:
        self._code.advance(text)
        self._tail = (self._tail + text)[-CLAIM_LIMIT:]

    def _claim(self) -> str:
        """The sentence a mark at this place supports: the one being written, or the one just ended."""
        text = self._tail.rstrip()
        return _SENTENCE_END.split(text)[-1 if text[-1:] not in _ENDS else -2].strip() if text else ""


def cite(hit: Hit, n: int, claim: str) -> Citation:
    """Citation n of a passage, quoting its sentence that best matches `claim`."""
    chunk = hit.chunk
    return Citation(
        n=n,
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        document=chunk.document,
        page=chunk.page,
        quote=best_sentence(chunk.text, claim),
    )


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for first, last in _NUMBER.findall(text):
        low, high = int(first), int(last or first)
        numbers.extend(range(low, high + 1) if low <= high <= low + 20 else [low, high])
    return list(dict.fromkeys(numbers))
