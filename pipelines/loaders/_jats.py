"""Scientific articles in JATS XML (NISO Z39.96): title, authors, abstract, sections, tables, captions, references."""

from collections.abc import Iterator
from typing import Any

from pipelines.loaders._xml import name_of
from pipelines.markup import heading, one_line, spanned, table
from pipelines.types import Page

_INLINE_SKIPPED = frozenset({"fn", "table-wrap", "fig", "disp-formula-group", "object-id", "graphic", "label", "title"})
_BLOCKS = frozenset(
    {"p", "sec", "list", "table-wrap", "fig", "boxed-text", "disp-quote", "def-list", "code", "preformat"}
)


def article(root: Any) -> Page:
    """The whole article as one page of Markdown, its title as the page's."""
    title = _first(root, "article-title")
    parts = [heading(title, 1), _authors(root)]
    for abstract in _all(root.find(".//{*}front"), "abstract"):
        parts += [heading(_child(abstract, "title") or "Abstract", 2), *_blocks(abstract, 3)]
    keywords = [_text(kwd) for kwd in _all(root.find(".//{*}front"), "kwd")]
    parts.append(f"Keywords: {', '.join(keywords)}" if keywords else "")
    for name in ("body", "back"):
        part = next((child for child in root if name_of(child) == name), None)
        if part is not None:
            parts.extend(_blocks(part, 2))
    return Page(text="\n\n".join(part for part in parts if part.strip()), title=title)


def _blocks(parent: Any, level: int) -> Iterator[str]:
    for element in parent:
        name = name_of(element)
        if name in ("sec", "app", "ack", "ref-list", "glossary", "boxed-text", "app-group", "fn-group", "notes"):
            yield heading(
                _child(element, "title") or {"ref-list": "References", "ack": "Acknowledgements"}.get(name, ""), level
            )
            yield from _blocks(element, level + 1)
        elif name == "p":
            yield _text(element)
            yield from _blocks([child for child in element if name_of(child) in _BLOCKS - {"p"}], level)
        elif name == "list":
            yield "\n".join(f"- {_text(item)}" for item in element if name_of(item) == "list-item")
        elif name in ("table-wrap", "fig"):
            yield from _figure(element)
        elif name == "ref":
            yield f"- {_text(element)}"
        elif name in ("code", "preformat"):
            yield "```\n" + "".join(element.itertext()).strip("\n") + "\n```"
        elif name not in ("title", "label", ""):
            yield from (
                _blocks(element, level) if any(name_of(c) in _BLOCKS for c in element) else iter((_text(element),))
            )


def _figure(element: Any) -> Iterator[str]:
    label, caption = _child(element, "label"), next(iter(_all(element, "caption")), None)
    words = " ".join(_text(part) for part in caption) if caption is not None else ""
    yield " ".join(part for part in (label, words) if part)
    for grid in _all(element, "table"):
        yield table(_rows(grid))
    for note in _all(element, "table-wrap-foot"):
        yield one_line(" ".join(note.itertext()))


def _rows(grid: Any) -> list[list[str]]:
    """Rows of a table; what spans several places is repeated where it is short."""
    waiting: dict[int, tuple[int, str]] = {}  # column: rows it still reaches down, text
    rows: list[list[str]] = []
    for row in _all(grid, "tr"):
        cells: list[str] = []
        own = [cell for cell in row if name_of(cell) in ("td", "th")]
        while own or any(column >= len(cells) for column in waiting):
            column = len(cells)
            if column in waiting:
                left, text = waiting.pop(column)
                cells.append(text)
                if left > 1:
                    waiting[column] = (left - 1, text)
                continue
            if not own:
                break
            cell = own.pop(0)
            text = one_line(" ".join(cell.itertext()))
            for extra in range(_span(cell, "colspan")):
                cells.append(text if not extra else spanned(text))
                if _span(cell, "rowspan") > 1:
                    waiting[column + extra] = (_span(cell, "rowspan") - 1, spanned(text))
        rows.append(cells)
    return rows


def _span(cell: Any, name: str) -> int:
    value = cell.get(name) or "1"
    return min(max(int(value), 1), 100) if value.isdigit() else 1


def _authors(root: Any) -> str:
    names = []
    for person in _all(root.find(".//{*}front"), "contrib"):
        given, family = _first(person, "given-names"), _first(person, "surname")
        if family:
            names.append(f"{given} {family}".strip())
    return ", ".join(dict.fromkeys(names))


def _text(element: Any) -> str:
    """Running text of an element, without the figures, tables and notes anchored in it."""

    def parts(node: Any) -> Iterator[str]:
        yield node.text or ""
        for child in node:
            if name_of(child) and name_of(child) not in _INLINE_SKIPPED:
                yield from parts(child)
                if name_of(child) in ("name", "p", "article-title", "source", "year", "string-name", "volume"):
                    yield " "
            yield child.tail or ""

    return one_line("".join(parts(element)))


def _all(element: Any, name: str) -> list[Any]:
    return [] if element is None else [child for child in element.iter() if name_of(child) == name]


def _first(element: Any, name: str) -> str:
    return next((one_line("".join(found.itertext())) for found in _all(element, name)), "")


def _child(element: Any, name: str) -> str:
    return next((one_line("".join(child.itertext())) for child in element if name_of(child) == name), "")
