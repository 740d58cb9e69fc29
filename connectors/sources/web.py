"""Web pages and files by http(s) address: as a source, and one at a time for the command line."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from connectors.pages import CREDENTIALS, Pages, addresses_of, check_hosts
from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import NotFound, SourceUnavailable, TooLarge

__all__ = ["CREDENTIALS", "OPTIONS", "SCHEDULE", "check", "fetch", "open_source"]

OPTIONS: dict[str, str] = {}
SCHEDULE = "1d"
#: endings for what servers send without one in the path
ENDINGS = {
    "text/html": ".html",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
}
LIMIT = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WebDocument:
    """What an address held."""

    #: file name with an ending that tells the kind
    name: str
    media_type: str
    content: bytes


def check(spec: Spec) -> Spec:
    """Raises BadRequest, Forbidden for a private network, SourceUnavailable for an unknown host."""
    check_hosts(spec)
    return replace(spec, location=" ".join(addresses_of(spec)))


def open_source(spec: Spec) -> Source:
    """The pages."""
    return Web(spec)


class Web:
    """Pages by address as a source: an external id is an address."""

    parallel = 2

    def __init__(self, spec: Spec) -> None:
        self._addresses = addresses_of(spec)
        self._pages = Pages(spec)

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Every address; whether there is something is seen when it is fetched."""
        for address in self._addresses:
            yield Item(external_id=address, name=address)

    def fetch(self, item: Item, known: str) -> AbstractAsyncContextManager[Fetched | None]:
        """The page."""
        return self._pages.page(item, known)

    async def close(self) -> None:
        """Let go of connections."""
        await self._pages.close()


def fetch(url: str, timeout: float = 30.0, limit: int = LIMIT) -> WebDocument:
    """Download one address, at most `limit` bytes. Raises NotFound, TooLarge, SourceUnavailable."""
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
            if response.status_code in (404, 410):
                raise NotFound(f"{url} answered {response.status_code}: there is nothing there")
            if response.status_code >= 400:
                raise SourceUnavailable(f"{url} answered {response.status_code} {response.reason_phrase}")
            content = bytearray()
            for block in response.iter_bytes():
                content += block
                if len(content) > limit:
                    raise TooLarge(f"{url} is larger than {limit >> 20} MiB")
            media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return WebDocument(name=_name(str(response.url), media_type), media_type=media_type, content=bytes(content))
    except (httpx.TransportError, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise SourceUnavailable(f"cannot fetch {url}: {error or type(error).__name__}") from None


def _name(url: str, media_type: str) -> str:
    parts = urlsplit(url)
    name = unquote(PurePosixPath(parts.path).name) or parts.netloc
    ending = ENDINGS.get(media_type, "")
    return name if not ending or name.lower().endswith(ending) else name + ending
