"""Web pages for sources: robots.txt respected, unchanged ones not sent again, private networks closed."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from urllib.parse import urldefrag, urlsplit

import httpx
from protego import Protego

from connectors.guard import Guard, GuardedTransport
from connectors.source import Fetched, Item, Spec
from pipelines.errors import BadRequest, Forbidden, NotFound, SourceUnavailable

AGENT = "Deepwell"
HEADERS = {"User-Agent": f"{AGENT}/0.1 (documents for search)", "Accept": "text/html, */*;q=0.9"}
TIMEOUT = 30.0
#: no robots.txt makes us wait longer between two pages
LONGEST_DELAY = 60.0
LONGEST_RETRY = 30.0
ROBOTS_BYTES = 500 << 10
#: endings for kinds that content alone does not tell
ENDINGS: Mapping[str, str] = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
}
CREDENTIALS = {"authorization": "value of the header Authorization, sent to the hosts of the source only"}


def addresses_of(spec: Spec) -> list[str]:
    """The http(s) addresses in a location, without fragments. Raises BadRequest."""
    found = []
    for word in spec.location.split():
        parts = urlsplit(word)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise BadRequest(f"{word} is not an address of a web page: http(s)://host/path, without a password in it")
        found.append(urldefrag(word).url)
    if not found:
        raise BadRequest("a source of web pages needs at least one http(s) address")
    return list(dict.fromkeys(found))


def check_hosts(spec: Spec) -> None:
    """Raises Forbidden for hosts of private networks, SourceUnavailable for unknown ones; blocking."""
    guard = Guard.of(spec.private_hosts)
    for host in {urlsplit(address).hostname or "" for address in addresses_of(spec)}:
        guard.resolve(host, 80)


class Pages:
    """Fetches pages for one source."""

    def __init__(self, spec: Spec) -> None:
        self._hosts = {urlsplit(address).hostname for address in addresses_of(spec)}
        self._authorization = spec.credentials.get("authorization", "")
        self._robots: dict[str, Protego] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._last: dict[str, float] = {}
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(Guard.of(spec.private_hosts)), headers=HEADERS, timeout=TIMEOUT,
            follow_redirects=True, max_redirects=5, trust_env=False,
        )  # fmt: skip

    @asynccontextmanager
    async def page(self, item: Item, known: str) -> AsyncIterator[Fetched | None]:
        """One page; None if it is still the version `known`.

        Raises NotFound, Forbidden if robots.txt or the server does not allow it, SourceUnavailable.
        """
        url = item.external_id
        await self._wait_for_turn(url)
        async with self.get(url, _conditions(known)) as response:
            if response.status_code == 304:
                yield None
                return
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            suffix = PurePosixPath(urlsplit(url).path).suffix
            name = item.name + ("" if suffix else ENDINGS.get(kind, ""))
            yield Fetched(content=Body(response), version=_version(response), address=str(response.url), name=name)

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """A response with a body, or 304. Raises NotFound, Forbidden, SourceUnavailable."""
        async with self._answer(url, headers) as response:
            _judge(response, url)
            yield response

    @asynccontextmanager
    async def _answer(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request("GET", url, headers=headers)
        if self._authorization and urlsplit(url).hostname in self._hosts:
            request.headers["Authorization"] = self._authorization
        response = await self._send(request, url)
        try:
            if response.status_code in (429, 503) and (wait := _retry_after(response)) is not None:
                await response.aclose()
                await asyncio.sleep(wait)
                response = await self._send(request, url)
            yield response
        finally:
            await response.aclose()

    async def _send(self, request: httpx.Request, url: str) -> httpx.Response:
        try:
            return await self._client.send(request, stream=True)
        except (httpx.TransportError, httpx.InvalidURL, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise SourceUnavailable(f"{url} cannot be fetched: {error or type(error).__name__}") from None

    async def _wait_for_turn(self, url: str) -> None:
        """Wait as long as robots.txt asks for between two pages. Raises Forbidden if it does not allow this one."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        async with self._turns.setdefault(origin, asyncio.Lock()):
            rules = await self.robots(origin)
            if not rules.can_fetch(url, AGENT):
                raise Forbidden(f"{origin}/robots.txt does not allow programs to fetch {url}")
            delay = min(float(rules.crawl_delay(AGENT) or 0), LONGEST_DELAY)
            await asyncio.sleep(max(0.0, self._last.get(origin, 0.0) + delay - time.monotonic()))
            self._last[origin] = time.monotonic()

    async def robots(self, origin: str) -> Protego:
        """The rules of a site (RFC 9309): none where there is no robots.txt. Raises SourceUnavailable."""
        if origin not in self._robots:
            url, text = f"{origin}/robots.txt", ""
            async with self._answer(url, {}) as response:
                if not _refused(response.status_code):
                    _judge(response, url)
                    text = (await read(response, ROBOTS_BYTES)).decode("utf-8", "replace")
            self._robots[origin] = Protego.parse(text)
        return self._robots[origin]

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


class Body:
    """The body of a response, bit by bit."""

    def __init__(self, response: httpx.Response) -> None:
        self._pieces = response.aiter_bytes()
        self._url = str(response.url)

    async def read(self, size: int = -1, /) -> bytes:
        """The next piece as it comes. Raises SourceUnavailable if the connection breaks."""
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
            raise SourceUnavailable(f"{self._url} broke off: {error or type(error).__name__}") from None
        return b""


async def read(response: httpx.Response, limit: int) -> bytes:
    """The beginning of a body, at most `limit` bytes. Raises SourceUnavailable."""
    body, found = Body(response), bytearray()
    while len(found) < limit and (piece := await body.read()):
        found += piece
    return bytes(found[:limit])


def _judge(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (404, 410):
        raise NotFound(f"{url} answered {status}: there is nothing there")
    if status in (401, 403, 407):
        raise Forbidden(f"{url} answered {status}: it wants other credentials, or none of ours")
    if _refused(status):
        raise Forbidden(f"{url} answered {status} {response.reason_phrase}")
    if status >= 400 or (300 <= status < 400 and status != 304):
        raise SourceUnavailable(f"{url} answered {status} {response.reason_phrase}")


def _refused(status: int) -> bool:
    """Whether asking again later has the same answer."""
    return 400 <= status < 500 and status not in (408, 425, 429)


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_RETRY) if text.isdigit() and float(text) <= LONGEST_RETRY else None


def _version(response: httpx.Response) -> str:
    """ETag and Last-Modified, a line each; "" if there is neither."""
    found = [response.headers.get(name, "") for name in ("etag", "last-modified")]
    return "\n".join(found) if any(found) else ""


def _conditions(known: str) -> dict[str, str]:
    etag, _, modified = known.partition("\n")
    headers = {"If-None-Match": etag, "If-Modified-Since": modified}
    return {name: value for name, value in headers.items() if value}
