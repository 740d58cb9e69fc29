"""E-mail: messages (.eml) and mailboxes (.mbox), with what is attached to them."""

import mailbox
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from pipelines.encoding import decode
from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, Sample
from pipelines.loaders._mail import Letter, pages
from pipelines.types import Page

SUFFIXES = frozenset({".eml", ".mbox", ".mht", ".mhtml"})
MEDIA_TYPES = frozenset({"message/rfc822", "application/mbox", "multipart/related"})

_MAILBOX = b"From "
_HEADERS = ("from", "to", "cc", "date", "subject")


def recognises(sample: Sample) -> bool:
    """Headers have no mark of their own; the name decides. (A mailbox is told from a message by its first line.)"""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """For each message a page with its subject as title, then pages of what is attached."""
    with path.open("rb") as file:
        is_mailbox = file.read(5) == _MAILBOX
    if not is_mailbox:
        yield from pages(_letter(path.read_bytes(), path.name, options), options)
        return
    box = mailbox.mbox(path, create=False)
    for key in box.iterkeys():
        yield from pages(_letter(box.get_bytes(key), path.name, options), options)


def _letter(data: bytes, name: str, options: Options) -> Letter:
    # The modern policy decodes RFC 2047 words and RFC 2231 parameters.
    message = message_from_bytes(data, policy=policy.default)
    headers = {header: _header(message, header) for header in _HEADERS}
    if not any(headers.values()) and not message.get_content_type().startswith("multipart"):
        raise UnreadableDocument(f"{name} is no e-mail: it has no sender, receiver, date or subject")
    letter = Letter(headers={header: value for header, value in headers.items() if value})
    for part in message.walk():
        if not part.is_multipart():
            _take(letter, part, options)
    return letter


def _header(message: EmailMessage, name: str) -> str:
    """A header's text; raw 8-bit headers, which the standard does not know but the world sends, are decoded too."""
    try:
        value = message.get(name)
    except (ValueError, LookupError, TypeError, AttributeError):  # the parser's own defects on malformed headers
        return ""
    text = str(value or "")
    raw = text.encode("utf-8", "surrogateescape")
    return decode(raw, name) if raw != text.encode("utf-8", "replace") else text


def _take(letter: Letter, part: EmailMessage, options: Options) -> None:
    """Put a part where it belongs: the letter as plain text, as HTML, or an attachment."""
    content = part.get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    kind, name = part.get_content_type(), part.get_filename() or ""
    if part.get_content_disposition() == "attachment" or (name and not kind.startswith("text/")):
        letter.attachments.append((name or f"attachment.{part.get_content_subtype()}", data))
    elif kind in ("text/plain", "text/html") and data:
        try:
            text = decode(data, "the message", part.get_content_charset() or "")
        except UnreadableDocument as error:
            text = data.decode("cp1252", "replace")
            options.remark(f"part of the message could not be decoded exactly: {error}")
        letter.plain.append(text) if kind == "text/plain" else letter.html.append(text)
