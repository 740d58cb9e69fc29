"""Rich Text Format (RTF 1.9.1): text in any code page, headings, lists and tables. Pictures are left out."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, Sample
from pipelines.markup import heading, one_line, table
from pipelines.types import Page

SUFFIXES = frozenset({".rtf"})
MEDIA_TYPES = frozenset({"application/rtf", "text/rtf"})

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z\r\n])|([{}])|\\?[\r\n]+|([^\\{}\r\n]+)"
)
# Groups that hold no text of the document.
_SKIPPED = frozenset(
    b"fonttbl colortbl stylesheet info pict object filetbl listtable listoverridetable rsidtbl generator themedata "
    b"colorschememapping datastore latentstyles header headerl headerr headerf footer footerl footerr footerf fldinst "
    b"xmlnstbl mmathPr pgdsctbl pntxta pntxtb nonshppict shppict bkmkstart bkmkend annotation atnid atnauthor "
    b"revtbl wgrffmtfilter".split()
)
_SPECIAL = {b"tab": "\t", b"line": "\n", b"emdash": "—", b"endash": "–", b"bullet": "•", b"lquote": "‘",
            b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”", b"emspace": " ", b"enspace": " "}  # fmt: skip
#: code page of a font's character set (RTF 1.9.1, "Font table")
_CHARSETS = {0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "big5hkscs",
             161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251",
             222: "cp874", 238: "cp1250"}  # fmt: skip
_CODE_PAGES = {932: "cp932", 936: "gb18030", 949: "cp949", 950: "big5hkscs", 65001: "utf-8", 10000: "mac_roman"}
_DEPTH = 1000


def recognises(sample: Sample) -> bool:
    """Every RTF file begins with its name and version."""
    return sample.head.startswith(b"{\\rtf")


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number."""
    reader = _Reader()
    reader.read(path.read_bytes(), path.name)
    if reader.replaced:
        options.remark(f"{path.name}: {reader.replaced} characters are in no code page it names")
    yield Page(text="\n\n".join(block for block in reader.blocks() if block.strip()))


@dataclass(slots=True)
class _State:
    """What a group inherits from the one around it."""

    skipped: bool = False
    font: int = 0
    #: fallback characters after \\u
    fallback: int = 1
    hidden: bool = False
    #: "fonttbl", "stylesheet" or "": tables that are read, not shown
    definitions: bytes = b""
    is_item: bool = False


@dataclass(slots=True)
class _Paragraph:
    level: int = 0
    item: bool = False
    in_table: bool = False
    style: int = -1


@dataclass(slots=True)
class _Reader:
    """Goes over the tokens once."""

    replaced: int = 0
    _out: list[tuple[_Paragraph, str]] = field(default_factory=list)
    _state: _State = field(default_factory=_State)
    _stack: list[_State] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    _bytes: bytearray = field(default_factory=bytearray)
    _paragraph: _Paragraph = field(default_factory=_Paragraph)
    _row: list[str] = field(default_factory=list)
    _rows: list[list[str]] = field(default_factory=list)
    _page: str = "cp1252"
    _fonts: dict[int, str] = field(default_factory=dict)
    _styles: dict[int, int] = field(default_factory=dict)
    _definition: int = -1
    _skip: int = 0
    _opens: bool = False

    def read(self, data: bytes, name: str) -> None:
        """Read a whole file. Raises UnreadableDocument if groups are nested beyond reason."""
        if not data.startswith(b"{\\rtf"):
            raise UnreadableDocument(f"{name} is no RTF file, whatever its name says")
        place = 0
        while place < len(data):
            found = _TOKEN.match(data, place)
            if not found:
                place += 1
                continue
            place = found.end()
            word, number, code, symbol, brace, plain = found.groups()
            if brace:
                self._brace(brace, name)
            elif word:
                if word == b"bin":  # raw bytes follow
                    place += max(0, int(number or 0))
                else:
                    self._word(word, int(number) if number else None)
            elif code:
                self._raw(bytes.fromhex(code.decode()))
            elif symbol:
                self._symbol(symbol)
            elif plain:
                self._raw(plain)
        self._end_paragraph()
        self._end_table()

    def blocks(self) -> Iterator[str]:
        """Markdown, list items that follow each other together."""
        items: list[str] = []
        for paragraph, text in self._out:
            if paragraph.item:
                items.append(f"- {one_line(text)}")
                continue
            if items:
                yield "\n".join(items)
                items = []
            yield heading(text, paragraph.level) if paragraph.level else text
        yield "\n".join(items)

    def _brace(self, brace: bytes, name: str) -> None:
        self._flush()
        if brace == b"{":
            if len(self._stack) > _DEPTH:
                raise UnreadableDocument(f"{name} is nested too deeply to be read")
            self._stack.append(self._state)
            self._state = replace(self._state)
            self._opens = True
        elif self._stack:
            self._state = self._stack.pop()
            self._skip = 0

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._state.skipped = self._state.skipped or self._opens
        elif symbol in b"\\{}":
            self._raw(symbol)
        elif symbol in b"~_":
            self._add("\xa0" if symbol == b"~" else "-")

    def _word(self, word: bytes, number: int | None) -> None:
        opens, self._opens = self._opens, False
        self._flush()
        if word in (b"fonttbl", b"stylesheet"):
            self._state.definitions = word
        if word in _SKIPPED:
            self._state.skipped = True
        if word in (b"listtext", b"pntext") and opens:
            self._paragraph.item, self._state.skipped = True, True
        if self._state.definitions:
            self._define(word, number)
        elif word == b"u" and number is not None:
            self._add(_unicode(number))
            self._skip = self._state.fallback
        elif not self._character(word, number) and not self._state.skipped:
            self._layout(word, number)

    def _character(self, word: bytes, number: int | None) -> bool:
        """Formatting of characters; True if it was such."""
        if word == b"uc":
            self._state.fallback = number or 0
        elif word == b"f":
            self._state.font = number or 0
        elif word == b"v":
            self._state.hidden = number != 0
        elif word == b"plain":
            self._state.hidden = False
        elif word == b"ansicpg":
            self._page = _CODE_PAGES.get(number or 0, f"cp{number}")
        elif word in (b"mac", b"pc"):
            self._page = "mac_roman" if word == b"mac" else "cp437"
        elif word in _SPECIAL:
            self._add(_SPECIAL[word])
        else:
            return False
        return True

    def _layout(self, word: bytes, number: int | None) -> None:
        """Paragraphs and tables."""
        if word in (b"par", b"sect", b"page"):
            self._end_paragraph()
        elif word == b"pard":
            self._paragraph = _Paragraph()
        elif word == b"outlinelevel":
            self._paragraph.level = (number or 0) + 1 if (number or 0) < 9 else 0
        elif word == b"s":
            self._paragraph.level = self._styles.get(number or 0, 0)
        elif word == b"ls":
            self._paragraph.item = bool(number)
        elif word == b"intbl":
            self._paragraph.in_table = True
        elif word in (b"cell", b"nestcell"):
            self._row.append(one_line("".join(self._text)))
            self._text.clear()
        elif word in (b"row", b"nestrow") and self._row:
            self._rows.append(self._row)
            self._row = []

    def _define(self, word: bytes, number: int | None) -> None:
        """Fonts with their character sets, styles with their levels."""
        if self._state.definitions == b"fonttbl":
            if word == b"f":
                self._definition = number or 0
            elif word == b"fcharset" and number in _CHARSETS and number:
                self._fonts[self._definition] = _CHARSETS[number]
        elif word == b"s":
            self._definition = number or 0
        elif word == b"outlinelevel" and number is not None and number < 9:
            self._styles[self._definition] = number + 1

    def _raw(self, data: bytes) -> None:
        self._opens = False
        if self._skip:
            self._skip, data = max(0, self._skip - len(data)), data[self._skip :]
        if self._state.definitions == b"stylesheet":
            found = re.match(rb"\s*heading (\d)", data, re.IGNORECASE)
            if found:
                self._styles.setdefault(self._definition, int(found.group(1)))
        if data and not self._state.skipped and not self._state.hidden:
            self._bytes += data

    def _flush(self) -> None:
        """Bytes gathered so far, in the code page of their font: a character may be spread over several tokens."""
        if self._bytes:
            page = self._fonts.get(self._state.font, self._page)
            text = self._decoded(bytes(self._bytes), page)
            self._bytes.clear()
            self._add(text)

    def _decoded(self, data: bytes, page: str) -> str:
        try:
            codecs.lookup(page)
        except LookupError:
            page = "cp1252"
        try:
            return data.decode(page)
        except UnicodeDecodeError:
            text = data.decode(page, "replace")
            self.replaced += text.count("\ufffd")
            return text.replace("\ufffd", "")

    def _add(self, text: str) -> None:
        if not self._state.skipped and not self._state.hidden and not self._state.definitions:
            self._text.append(text)

    def _end_paragraph(self) -> None:
        self._flush()
        text = _joined_surrogates("".join(self._text)).strip()
        if self._paragraph.in_table or self._row:
            self._text.append(" ")
            return
        self._text.clear()
        if text:
            self._end_table()
            self._out.append((replace(self._paragraph), text))

    def _end_table(self) -> None:
        if self._rows:
            self._out.append((_Paragraph(), table(self._rows)))
            self._rows = []


def _unicode(number: int) -> str:
    return chr(number % 65536)


def _joined_surrogates(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
