"""Web pages and files by http(s) address."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from pipelines.errors import NotFound, SourceUnavailable, TooLarge

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
