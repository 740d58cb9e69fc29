"""A message as pages, whatever format it came in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipelines.loaders import Options, html
from pipelines.loaders._nested import inner, shown_name
from pipelines.markup import clean, heading, one_line
from pipelines.types import Page

_LABELS = {"from": "From", "to": "To", "cc": "Cc", "date": "Date"}


@dataclass(slots=True)
class Letter:
    """Headers in lower case, the bodies, and attachments by name."""

    headers: Mapping[str, str]
    plain: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    attachments: list[tuple[str, bytes]] = field(default_factory=list)


def pages(letter: Letter, options: Options) -> Iterator[Page]:
    """The message, then what is attached. Plain text is preferred; HTML is read where there is none."""
    subject = one_line(letter.headers.get("subject", ""))
    lines = [f"{label}: {one_line(letter.headers[name])}" for name, label in _LABELS.items() if name in letter.headers]
    names = [shown_name(name) for name, _ in letter.attachments]
    if names:
        lines.append(f"Attachments: {', '.join(names)}")
    body = "\n\n".join(part.replace("\r\n", "\n").strip() for part in letter.plain)
    if not body.strip():
        body = "\n\n".join(html.read(part)[1] for part in letter.html)
    parts = (heading(subject, 1), clean("\n".join(lines)), body)
    yield Page(text="\n\n".join(part for part in parts if part.strip()), title=subject)
    for name, data in letter.attachments:
        yield from inner(name, [data], options)
