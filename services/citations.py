"""Addresses of passages: signed, so that they open without a key; stable, so that they may be kept.

    token = base64url(version, quote's place, last day | chunk id | HMAC-SHA256 of all that, its first 16 bytes)

The signature is the right to read this one passage and its neighbours, for as long as the setting
`server.citation_days` says. The secret is made once and kept in the data directory. Deleting the document, or the
secret, makes a link void.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.errors import BadRequest, NotFound
from pipelines.types import Citation, Event, Finish, Sources
from services.settings import Settings

_VERSION = 1
_HEAD = struct.Struct(">BHHH")  # version, begin and end of the quote, last valid day since 1970 (0: for ever)
_MAC = 16
_DAY = 86400
#: characters of a secret that somebody chose
_LEAST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a link points to: a passage, and the characters `begin` to `end` of it that are the quote."""

    chunk_id: str
    begin: int = 0
    end: int = 0


class Signer:
    """Makes and reads links. The same passage has the same link for a quarter of its life, at least a day."""

    def __init__(self, secret: bytes, days: int = 0) -> None:
        self._secret = secret
        self._days = days

    def token(self, place: Place, now: float | None = None) -> str:
        """The link's last part, URL-safe."""
        head = _HEAD.pack(_VERSION, min(place.begin, 0xFFFF), min(place.end, 0xFFFF), self._last_day(now))
        payload = head + place.chunk_id.encode()
        return base64.urlsafe_b64encode(payload + self._mac(payload)).decode().rstrip("=")

    def read(self, token: str, now: float | None = None) -> Place:
        """What a link points to. Raises NotFound for one that we did not sign or that is too old."""
        try:
            data = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            data = b""
        payload, mac = data[:-_MAC], data[-_MAC:]
        if len(payload) <= _HEAD.size or not hmac.compare_digest(mac, self._mac(payload)):
            raise NotFound("this is not a link to a passage, or it was changed on its way")
        version, begin, end, last = _HEAD.unpack_from(payload)
        if version != _VERSION or (last and self._today(now) > last):
            raise NotFound("the link to this passage is too old; ask again for a new one")
        return Place(chunk_id=payload[_HEAD.size :].decode(), begin=begin, end=end)

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, b"deepwell citation\0" + payload, hashlib.sha256)[:_MAC]

    def _last_day(self, now: float | None) -> int:
        if not self._days:
            return 0
        step = max(1, self._days // 4)
        return min(0xFFFF, -(-(self._today(now) + self._days) // step) * step)

    @staticmethod
    def _today(now: float | None) -> int:
        return int((time.time() if now is None else now) // _DAY)


def signer_for(settings: Settings) -> Signer:
    """The signer of an installation. Raises BadRequest for a secret that can be guessed."""
    given = settings.server.citation_secret.get_secret_value()
    if given and len(given) < _LEAST:
        raise BadRequest(
            f"setting server.citation_secret: {len(given)} characters can be guessed; take {_LEAST} or more"
        )
    return Signer(given.encode() or citation_secret(settings.data_dir), settings.server.citation_days)


def citation_secret(data_dir: Path) -> bytes:
    """The secret of this data directory; made at the first call, by one process only."""
    path = data_dir / "citation-secret"
    if not path.exists():
        made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            made.unlink()
    return path.read_bytes()


class Addresses:
    """The address of each passage that one answer names: of the passage first, of the quote once it is cited."""

    def __init__(self, signer: Signer, base: Callable[[], str], *, quotes: bool = True) -> None:
        """`base` gives the address of this service; asked only where there is a passage to name."""
        self._signer = signer
        self._find_base = base
        #: False keeps one address for each passage, for clients that take another one for another source
        self._quotes = quotes
        self._texts: dict[str, str] = {}
        #: by chunk id; filled by `note`
        self.urls: dict[str, str] = {}

    @cached_property
    def _base(self) -> str:
        return self._find_base().rstrip("/")

    def note(self, event: Event) -> None:
        """Fill `urls` with the passages an event names."""
        if isinstance(event, Sources):
            for hit in event.hits:
                self._texts[hit.chunk.id] = hit.chunk.text
                self.urls[hit.chunk.id] = self.passage(hit.chunk.id)
        elif isinstance(event, Finish):
            for citation in event.citations:
                if self._quotes or citation.chunk_id not in self.urls:
                    self.urls[citation.chunk_id] = self.quote(citation, self._texts)

    def passage(self, chunk_id: str) -> str:
        """The address of a passage."""
        return f"{self._base}/c/{self._signer.token(Place(chunk_id=chunk_id))}"

    def quote(self, citation: Citation, texts: Mapping[str, str]) -> str:
        """The address of a passage with the quote marked in it."""
        begin, end = place_of(citation.quote, texts.get(citation.chunk_id, ""))
        return f"{self._base}/c/{self._signer.token(Place(chunk_id=citation.chunk_id, begin=begin, end=end))}"


def place_of(quote: str, text: str) -> tuple[int, int]:
    """Where a quote, whose white space is folded and whose end may be cut, stands in its passage; (0, 0) if nowhere."""
    words = quote.removesuffix("…").split()
    found = re.search(r"\s+".join(re.escape(word) for word in words), text) if words else None
    return found.span() if found else (0, 0)
