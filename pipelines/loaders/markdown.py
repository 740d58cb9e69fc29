"""Markdown, kept as it is; YAML front matter becomes a title and a few lines of text."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import heading
from pipelines.types import Page

SUFFIXES = frozenset({".md", ".markdown", ".mdx", ".mdown"})
MEDIA_TYPES = frozenset({"text/markdown", "text/x-markdown"})

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"^([A-Za-z][\w-]*):[ \t]*(.*)$", re.MULTILINE)
_H1 = re.compile(r"^# \S", re.MULTILINE)
#: fields a reader would search for; the rest (layout, draft, emoji …) is for the site generator
_KEPT = ("description", "summary", "subtitle", "author", "authors", "date", "tags", "topics", "keywords", "categories")


def recognises(sample: Sample) -> bool:
    """Front matter with a title marks Markdown, whatever the name."""
    return bool(re.match(rb"(?:\xef\xbb\xbf)?---\r?\n(?:[^\n]*\n){0,20}?title:", sample.head))


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number; its title is that of the front matter."""
    text = read_text(path, options).replace("\r\n", "\n")
    fields, body = _front_matter(text)
    title = fields.get("title", "")
    lines = [f"{name}: {fields[name]}" for name in _KEPT if fields.get(name)]
    top = heading(title, 1) if title and not _H1.search(body) else ""
    yield Page(text="\n\n".join(part for part in (top, "\n".join(lines), body) if part), title=title)


def _front_matter(text: str) -> tuple[dict[str, str], str]:
    """Simple fields of the front matter (nested ones are left out) and the text below it."""
    found = _FRONT_MATTER.match(text)
    if not found or not _FIELD.search(found.group(1)):
        return {}, _without_comments(text)
    fields = {name.lower(): _value(value) for name, value in _FIELD.findall(found.group(1))}
    return fields, _without_comments(text[found.end() :])


def _without_comments(text: str) -> str:
    parts, place = [], 0
    while (begin := text.find("<!--", place)) >= 0 and (end := text.find("-->", begin)) >= 0:
        parts.append(text[place:begin])
        place = end + 3
    return "".join((*parts, text[place:]))


def _value(value: str) -> str:
    value = re.sub(r"\s+#.*$", "", value.strip()) if not value.startswith(('"', "'")) else value.strip()
    quoted = re.match(r"""^(["'])(.*?)\1""", value)
    if quoted:
        return quoted.group(2)
    if value.startswith("[") and value.endswith("]"):
        return ", ".join(part.strip().strip("\"'") for part in value[1:-1].split(","))
    return "" if value in ("|", ">", "|-", ">-") else value
