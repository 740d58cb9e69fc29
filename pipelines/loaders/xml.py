"""XML: feeds (RSS, Atom, RDF), scientific articles (JATS), and anything else by its texts. Nothing is ever fetched."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample, html, read_text
from pipelines.loaders._jats import article
from pipelines.loaders._xml import name_of, parse
from pipelines.markup import heading, one_line
from pipelines.types import Page

SUFFIXES = frozenset({".xml", ".nxml", ".rss", ".atom", ".rdf"})
MEDIA_TYPES = frozenset({"application/xml", "text/xml", "application/rss+xml", "application/atom+xml"})

_KNOWN = re.compile(rb"<(?:rss|feed|rdf:RDF|article)[\s>]")
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_TITLES = ("title",)
_BODIES = ("encoded", "content", "description", "summary")
_META = {"creator": "Author", "author": "Author", "pubDate": "Date", "date": "Date", "published": "Date",
         "updated": "Date", "issued": "Date", "category": "Topic", "subject": "Topic"}  # fmt: skip
#: text that is markup itself
_MARKUP = re.compile(r"<[a-zA-Z/!]|&(?:[a-z]{2,8}|#\d{1,7});")


def recognises(sample: Sample) -> bool:
    """A feed or an article at the beginning of an XML file."""
    return sample.head.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"<?xml") and bool(_KNOWN.search(sample.head))


def load(path: Path, options: Options) -> Iterator[Page]:
    """A page for each entry of a feed, with its title; one page for anything else. No page has a number."""
    text = read_text(path, options)
    root = parse(_DECLARATION.sub("", text).strip().encode("utf-8", "replace"))
    kind = name_of(root).lower()
    if kind in ("rss", "feed", "rdf"):
        yield from _feed(root)
    elif kind == "article":
        yield article(root)
    elif kind == "html":
        title, body = html.read(text)
        yield Page(text=body, title=title)
    else:
        yield Page(text="\n\n".join(_texts(root)))


def _feed(root: Any) -> Iterator[Page]:
    """What the feed says of itself, then its entries."""
    channel = next((e for e in root.iter() if name_of(e) == "channel"), root)
    title = _field(channel, _TITLES)
    about = "\n\n".join(
        part for part in (heading(title, 1), _field(channel, ("description", "subtitle", "tagline"))) if part
    )
    yield Page(text=about, title=title)
    for element in root.iter():
        if name_of(element) in ("item", "entry"):
            yield _entry(element)


def _entry(element: Any) -> Page:
    title = _field(element, _TITLES)
    meta: dict[str, str] = {}
    for child in element:
        label = _META.get(name_of(child))
        value = one_line(" ".join(child.itertext())) or child.get("term", "")
        if label and value:
            meta[label] = f"{meta[label]}, {value}" if label == "Topic" and label in meta else meta.get(label, value)
    lines = "\n".join(f"{label}: {value}" for label, value in meta.items())
    return Page(text="\n\n".join(part for part in (heading(title, 1), lines, _body(element)) if part), title=title)


def _field(element: Any, names: tuple[str, ...]) -> str:
    found = next((child for name in names for child in element if name_of(child) == name), None)
    return one_line(_plain("".join(found.itertext()))) if found is not None else ""


def _body(element: Any) -> str:
    """The fullest of the texts that an entry has; HTML in it as Markdown."""
    texts = ["".join(child.itertext()) for name in _BODIES for child in element if name_of(child) == name]
    return _plain(max(texts, key=len, default=""))


def _plain(text: str) -> str:
    return html.read(text)[1] if _MARKUP.search(text) else text.strip()


def _texts(root: Any) -> Iterator[str]:
    """Texts of any XML: an element that holds text of its own is a paragraph, with what stands inside it."""
    parts: list[str] = []
    inside = None
    for element in root.iter():
        if inside is not None and inside in element.iterancestors():
            continue
        own = (element.text or "") + "".join(child.tail or "" for child in element)
        if own.strip() and name_of(element):
            inside = element if len(element) else None
            parts.append(one_line("".join(element.itertext())))
    yield from parts
