"""Web pages by lxml: the text a reader came for, as Markdown. Nothing is ever fetched."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import heading, one_line, spanned, table
from pipelines.types import Page

SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
MEDIA_TYPES = frozenset({"text/html", "application/xhtml+xml"})

_START = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*|<!--(?:(?!-->).)*-->\s*)*<(?:!doctype html|html[\s>])", re.IGNORECASE | re.DOTALL
)


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_DROPPED = _tags(
    "script style noscript template svg canvas iframe object embed nav form button select input textarea dialog "
    "head link meta video audio map"
)
# Boilerplate by what its makers call it: roles of WAI-ARIA, and the words of common site software.
_ROLES = frozenset({"navigation", "search", "banner", "contentinfo", "complementary", "menu", "menubar", "dialog"})
_NAMES = re.compile(
    r"(?:^|[\s_-])(?:nav(?:bar|box|igation)?|menu|breadcrumbs?|cookies?|sidebar|noprint|printfooter|catlinks|"
    r"mw-editsection|mw-jump-link|toc|share|social|skip-link|advert(?:isement)?|visually-hidden|sr-only)(?:$|[\s_-])",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLOCKS = _tags(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer h1 h2 h3 h4 "
    "h5 h6 header hr html li main ol p pre section summary table ul"
)
#: share of the text of the page that <main> or the only <article> must hold to be taken for all of it
_MAIN_SHARE = 0.4


def recognises(sample: Sample) -> bool:
    """A document type or an <html> element at the start, in any encoding that keeps ASCII or has a mark."""
    return _START.match(sample.head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe")) is not None


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number; navigation, scripts, forms and hidden parts are left out."""
    title, body = read(read_text(path, options))
    top = heading(title, 1) if title and not re.search(r"^# ", body, re.MULTILINE) else ""
    yield Page(text=f"{top}\n\n{body}" if top else body)


def read(text: str) -> tuple[str, str]:
    """Title and Markdown of a page of HTML, or of a piece of one (a letter, an entry of a feed, a chapter)."""
    from lxml import etree
    from lxml import html as lxml_html

    parser = lxml_html.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:  # a page with nothing in it
        return "", ""
    title = one_line(root.findtext(".//title") or "")
    return title, "\n\n".join(block for block in _blocks(_content(root)) if block.strip())


def _content(root: Any) -> Any:
    """The part that calls itself the content, if it holds enough of the text; else the whole body."""
    body = root.find("body") if root.find("body") is not None else root
    for name in ("main", "article"):
        found = list(body.iter(name))
        if len(found) == 1 and len(found[0].text_content()) >= _MAIN_SHARE * len(body.text_content()):
            return found[0]
    return body


def _is_dropped(element: Any) -> bool:
    if not isinstance(element.tag, str) or element.tag in _DROPPED or element.get("hidden") is not None:
        return True
    if element.get("role") in _ROLES or element.get("aria-hidden") == "true":
        return True
    if _HIDDEN.search(element.get("style") or ""):
        return True
    names = f"{element.get('class') or ''} {element.get('id') or ''}"
    return element.tag not in ("body", "main", "article", "html") and bool(_NAMES.search(names))


def _blocks(element: Any) -> Iterator[str]:
    """Blocks below an element; text that stands between blocks becomes paragraphs."""
    inline: list[str] = [element.text or ""]
    for child in element:
        if not _is_dropped(child):
            if child.tag in _BLOCKS or _has_blocks(child):
                yield one_paragraph(inline)
                inline = []
                yield from _block(child)
            else:
                inline.append(_inline(child))
        inline.append(child.tail or "")
    yield one_paragraph(inline)


def _block(element: Any) -> Iterator[str]:
    tag = element.tag
    if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        yield heading(_inline(element), int(tag[1]))
    elif tag == "pre":
        yield "```\n" + element.text_content().strip("\n") + "\n```"
    elif tag in ("ul", "ol"):
        yield "\n".join(_items(element, 0))
    elif tag == "table":
        yield from _table(element)
    elif tag == "blockquote":
        for block in _blocks(element):
            yield "\n".join(f"> {line}" for line in block.split("\n")) if block.strip() else ""
    else:
        yield from _blocks(element)


def _has_blocks(element: Any) -> bool:
    return any(child.tag in _BLOCKS for child in element.iter() if child is not element)


def one_paragraph(parts: list[str]) -> str:
    """Pieces of running text as one paragraph; only <br> breaks a line."""
    lines = (one_line(line) for line in "".join(parts).replace("\n", " ").split("\v"))
    return "\n".join(line for line in lines if line)


def _inline(element: Any) -> str:
    """Running text: links and emphasis are their words, code keeps its marks. A vertical tab stands for <br>."""
    if element.tag == "br":
        return "\v"
    if element.tag == "img":
        return ""
    if element.tag == "code" and len(element) == 0:
        return f"`{element.text}`" if element.text else ""
    parts = [element.text or ""]
    for child in element:
        if not _is_dropped(child):
            gap = " " if child.tag in _BLOCKS else ""
            parts.append(gap + _inline(child) + gap)
        parts.append(child.tail or "")
    return "".join(parts)


def _items(listing: Any, depth: int) -> Iterator[str]:
    """Lines of a list; lists in it are indented."""
    number = 0
    for item in listing:
        if _is_dropped(item):
            continue
        if item.tag in ("ul", "ol"):
            yield from _items(item, depth + 1)
            continue
        number += 1
        inner = [child for child in item if child.tag in ("ul", "ol") and not _is_dropped(child)]
        for child in inner:
            tail = child.tail or ""
            item.remove(child)
            if tail.strip():
                item.text = (item.text or "") + " " + tail
        text = one_paragraph(list(_blocks(item))).replace("\n", " ") if _has_blocks(item) else one_line(_inline(item))
        mark = f"{number}." if listing.tag == "ol" else "-"
        if text:
            yield f"{'    ' * depth}{mark} {text}"
        for child in inner:
            yield from _items(child, depth + 1)


def _table(element: Any) -> Iterator[str]:
    """A table of data as Markdown; a table that only places things on the page as the blocks in its cells."""
    rows = [row for row in element.iter("tr") if next(row.iterancestors("table")) is element]
    headed = any(row.find("th") is not None for row in rows)
    nested = not headed and next(element.iterdescendants("table"), None) is not None
    width = max((len(row) for row in rows), default=0)
    caption = element.find("caption")
    if caption is not None:
        yield one_line(_inline(caption))
    if nested or width < 2:
        for row in rows:
            for cell in row:
                yield from _blocks(cell)
        return
    yield table(_grid(rows))


def _grid(rows: list[Any]) -> list[list[str]]:
    """Cells with rowspan and colspan put where they stand; short ones are repeated in the places they span."""
    taken: dict[tuple[int, int], str] = {}
    for y, row in enumerate(rows):
        x = 0
        for cell in row:
            if not isinstance(cell.tag, str) or cell.tag not in ("td", "th"):
                continue
            while (y, x) in taken:
                x += 1
            text = "" if _is_dropped(cell) else one_line(_inline(cell).replace("\v", " "))
            wide, high = _span(cell, "colspan"), _span(cell, "rowspan")
            for dy in range(min(high, len(rows) - y)):
                for dx in range(wide):
                    taken[y + dy, x + dx] = spanned(text)
            taken[y, x] = text
            x += wide
    width = max((x for _, x in taken), default=-1) + 1
    return [[taken.get((y, x), "") for x in range(width)] for y in range(len(rows))]


def _span(cell: Any, name: str) -> int:
    value = cell.get(name) or "1"
    return min(int(value), 100) if value.isdigit() and value != "0" else 1
