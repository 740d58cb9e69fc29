"""Every page that a site's sitemap names: XML, index of sitemaps, text, gzipped (https://www.sitemaps.org)."""

import asyncio
import gzip
import io
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from urllib.parse import urldefrag, urlsplit

from connectors.pages import CREDENTIALS, Pages, addresses_of, check_hosts, read
from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import BadRequest, NotFound, SourceUnavailable
from pipelines.loaders._xml import name_of, parse

__all__ = ["CREDENTIALS", "OPTIONS", "SCHEDULE", "check", "open_source"]

OPTIONS: dict[str, str] = {}
SCHEDULE = "1d"
#: the protocol's own limit of one sitemap
LARGEST = 50 << 20
DEEPEST = 3
MOST_PAGES = 200_000


def check(spec: Spec) -> Spec:
    """Raises BadRequest, Forbidden for a private network, SourceUnavailable for an unknown host."""
    found = addresses_of(spec)
    if len(found) > 1:
        raise BadRequest("a sitemap source has one address: that of the sitemap, or of the site")
    check_hosts(spec)
    return replace(spec, location=found[0])


def open_source(spec: Spec) -> Source:
    """The site."""
    return Sitemap(spec)


class Sitemap:
    """The pages of a site as a source: an external id is a page's address."""

    parallel = 2

    def __init__(self, spec: Spec) -> None:
        self._pages = Pages(spec)
        self._location = spec.location
        self._host = _site(spec.location)

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Every page named. Raises SourceUnavailable if a sitemap cannot be read: half a list would delete pages."""
        seen: set[str] = set()
        waiting = [(url, 1) for url in await self._roots()]
        while waiting:
            url, depth = waiting.pop()
            pages, nested = await self._read(url)
            if nested and depth >= DEEPEST:
                raise SourceUnavailable(f"{url} leads through more than {DEEPEST} sitemaps: name the innermost one")
            waiting += [(inner, depth + 1) for inner in nested]
            for page in pages:
                address = urldefrag(page).url
                if address in seen:
                    continue
                seen.add(address)
                if len(seen) > MOST_PAGES:
                    raise SourceUnavailable(f"{self._location} names more than {MOST_PAGES} pages: name a part of it")
                if _site(address) == self._host:
                    yield Item(external_id=address, name=address)
                else:
                    yield Unlisted(prefix=address, reason=f"{address} is on another site than its sitemap")

    async def _roots(self) -> list[str]:
        parts = urlsplit(self._location)
        if parts.path.strip("/") or parts.query:
            return [self._location]
        origin = f"{parts.scheme}://{parts.netloc}"
        return [*(await self._pages.robots(origin)).sitemaps] or [f"{origin}/sitemap.xml"]

    async def _read(self, url: str) -> tuple[list[str], list[str]]:
        try:
            async with self._pages.get(url, {}) as response:
                data = await read(response, LARGEST + 1)
        except NotFound as error:
            raise SourceUnavailable(str(error)) from None
        try:
            return await asyncio.to_thread(_parse, data)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise SourceUnavailable(f"{url} is not a sitemap: {error}") from None

    def fetch(self, item: Item, known: str) -> AbstractAsyncContextManager[Fetched | None]:
        """The page."""
        return self._pages.page(item, known)

    async def close(self) -> None:
        """Let go of connections."""
        await self._pages.close()


def _parse(data: bytes) -> tuple[list[str], list[str]]:
    """(pages, further sitemaps). Raises ValueError."""
    if data[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MiB, the protocol's limit")
    if not data.lstrip().startswith((b"<", b"\xef\xbb\xbf<")):
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        if not all(line.startswith(("http://", "https://")) for line in lines if line):
            raise ValueError("neither XML nor a list of addresses")
        return [line for line in lines if line], []
    root = parse(data)
    if name_of(root) not in ("urlset", "sitemapindex"):
        raise ValueError(f"its root is {name_of(root)!r}")
    if len(root) and not re.search(rf"</([\w.-]+:)?{name_of(root)}\s*>\s*$".encode(), data[-1000:]):
        raise ValueError("it is cut off")
    found = [
        (element.text or "").strip() for entry in root for element in entry if name_of(element) == "loc"
    ]  # image:loc and others lie deeper
    found = [address for address in found if address.startswith(("http://", "https://"))]
    return (found, []) if name_of(root) == "urlset" else ([], found)


def _site(url: str) -> str:
    return (urlsplit(url).hostname or "").removeprefix("www.")
