"""Outlook messages (.msg, [MS-OXMSG]) by python-oxmsg, with what is attached to them."""

from collections.abc import Iterator
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

from pipelines.loaders import Options, Sample
from pipelines.loaders._mail import Letter, pages
from pipelines.types import Page

SUFFIXES = frozenset({".msg"})
MEDIA_TYPES = frozenset({"application/vnd.ms-outlook"})

_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
#: PidTagSenderName and PidTagSenderSmtpAddress or PidTagSenderEmailAddress ([MS-OXPROPS])
_SENDER = (0x0C1A, 0x0C1F)
#: begins the name of every property stream of a message
_STREAM = "__substg1.0_".encode("utf-16-le")


def recognises(sample: Sample) -> bool:
    """An OLE file whose first directory entries are properties of a message."""
    return sample.head.startswith(_OLE) and _STREAM in sample.head


def load(path: Path, options: Options) -> Iterator[Page]:
    """A page with the subject as title, then pages of what is attached."""
    from oxmsg import Message

    message: Any = Message.load(str(path))
    found = {
        "from": _sender(message),
        "to": ", ".join(filter(None, map(_address, message.recipients))),
        "date": message.sent_date.isoformat(" ", "minutes") if message.sent_date else "",
        "subject": message.subject or "",
    }
    letter = Letter(headers={name: value for name, value in found.items() if value})
    if message.body:
        letter.plain.append(message.body)
    elif message.html_body:
        letter.html.append(message.html_body)
    for attachment in message.attachments:
        if attachment.file_bytes is not None:
            letter.attachments.append((attachment.file_name or "attachment", attachment.file_bytes))
        else:
            options.remark(f"{path.name} holds an attached message, which was left out")
    yield from pages(letter, options)


def _sender(message: Any) -> str:
    """Name and address from the message's properties; its Internet headers, if any, may be those of a relay."""
    found = {prop.pid: prop.value for prop in message.properties if prop.pid in _SENDER}
    name, address = (str(found.get(pid) or "") for pid in _SENDER)
    if name and address and name != address:
        return f"{name} <{address}>"
    return name or address or str(make_header(decode_header(message.sender or "")))


def _address(recipient: Any) -> str:
    name, address = recipient.name or "", recipient.email_address or ""
    return f"{name} <{address}>" if name and address and name != address else name or address
