"""Sources on the web against a real server: robots.txt, conditional requests, sitemaps, and closed private networks."""

import asyncio
import gzip
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.guard import Guard
from connectors.source import Item, Source, Spec, Unlisted
from connectors.sources import sitemap, web
from pipelines.errors import BadRequest, Forbidden, NotFound, SourceUnavailable
from tests.contract.web_site import Site, site


@pytest.fixture
def served() -> Iterator[Site]:
    with site() as running:
        yield running


def opened(kind: Any, location: str, hosts: str = "127.0.0.1", **secrets: str) -> Source:
    source: Source = kind.open_source(Spec(location=location, private_hosts=hosts, credentials=secrets))
    return source


async def listed(source: Source) -> list[str]:
    """External ids; what could not be listed in brackets."""
    return [f"[{one.reason}]" if isinstance(one, Unlisted) else one.external_id async for one in source.items()]


async def fetched(source: Source, url: str, known: str = "") -> tuple[bytes, str, str] | None:
    """Body, version and name of a page."""
    async with source.fetch(Item(external_id=url, name=url), known) as found:
        if found is None:
            return None
        body = b""
        while piece := await found.content.read(1 << 16):
            body += piece
        return body, found.version, found.name


@pytest.mark.parametrize("dated", [False, True])
async def test_an_unchanged_page_is_not_sent_again(served: Site, dated: bool) -> None:
    served.page("/a", "<p>first</p>", dated=dated)
    source, url = opened(web, f"{served.url}/a#part"), f"{served.url}/a"
    assert await listed(source) == [url]
    first = await fetched(source, url)
    assert first is not None and first[0] == b"<p>first</p>"
    assert await fetched(source, url, first[1]) is None
    served.page("/a", "<p>second</p>", dated=dated)
    second = await fetched(source, url, first[1])
    assert second is not None and second[0] == b"<p>second</p>"
    assert served.asked("/a") == [200, 304, 200]
    assert served.asked("/robots.txt") == [404], "asked once"
    await source.close()


async def test_robots_txt_is_respected(served: Site) -> None:
    rules = b"User-agent: deepwell\nDisallow: /private/\nCrawl-delay: 0.4\n\nUser-agent: *\nDisallow: /\n"
    served.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, rules)
    for path in ("/private/a", "/b", "/c"):
        served.page(path, "text")
    source = opened(web, " ".join(served.url + path for path in ("/private/a", "/b", "/c")))
    with pytest.raises(Forbidden, match=r"robots\.txt does not allow programs to fetch"):
        await fetched(source, f"{served.url}/private/a")
    began = asyncio.get_running_loop().time()
    await asyncio.gather(fetched(source, f"{served.url}/b"), fetched(source, f"{served.url}/c"))
    assert asyncio.get_running_loop().time() - began >= 0.35, "Crawl-delay is waited for"
    assert served.asked("/private/a") == []
    await source.close()


async def test_while_robots_txt_cannot_be_read_nothing_is_fetched(served: Site) -> None:
    served.pages["/robots.txt"] = (500, {}, b"")
    served.page("/a", "text")
    source = opened(web, f"{served.url}/a")
    with pytest.raises(SourceUnavailable, match=r"robots\.txt answered 500"):
        await fetched(source, f"{served.url}/a")
    assert served.asked("/a") == []
    await source.close()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, NotFound, "there is nothing there"),
        (410, NotFound, "there is nothing there"),
        (401, Forbidden, "it wants other credentials"),
        (418, Forbidden, "answered 418"),
        (500, SourceUnavailable, "answered 500"),
        (429, SourceUnavailable, "answered 429"),
    ],
)
async def test_only_gone_is_gone(served: Site, status: int, error: type[Exception], words: str) -> None:
    served.pages["/a"] = (status, {"Retry-After": "0"}, b"")
    source = opened(web, f"{served.url}/a")
    with pytest.raises(error, match=words):
        await fetched(source, f"{served.url}/a")
    await source.close()


async def test_a_server_that_breaks_off_gives_no_half_page(served: Site) -> None:
    served.pages["/a"] = (200, {"Content-Type": "text/html", "Content-Length": "5000"}, b"half a page")
    source = opened(web, f"{served.url}/a")
    with pytest.raises(SourceUnavailable, match="broke off"):
        await fetched(source, f"{served.url}/a")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = opened(web, f"http://127.0.0.1:{closed.getsockname()[1]}/")
        with pytest.raises(SourceUnavailable, match="cannot be fetched"):
            await fetched(gone, f"http://127.0.0.1:{closed.getsockname()[1]}/")
    await source.close()


async def test_secrets_go_to_the_hosts_of_the_source_only(served: Site) -> None:
    with site() as other:
        other.page("/b", "text")
        there = other.url.replace("127.0.0.1", "localhost")
        served.pages["/a"] = (302, {"Location": f"{there}/b"}, b"")
        source = opened(web, f"{served.url}/a", hosts="127.0.0.1, localhost", authorization="Bearer s3cret")
        assert (await fetched(source, f"{served.url}/a") or (b"",))[0] == b"text"
        assert served.log[-1][2]["Authorization"] == "Bearer s3cret"
        assert "Authorization" not in other.log[-1][2]
        assert other.log[-1][2]["User-Agent"].startswith("Deepwell/")
        await source.close()


async def test_the_kind_is_told_by_the_server_where_the_content_does_not(served: Site) -> None:
    served.page("/notes", "just words", "text/plain; charset=utf-8")
    source = opened(web, f"{served.url}/notes")
    found = await fetched(source, f"{served.url}/notes")
    assert found is not None and found[2] == f"{served.url}/notes.txt"
    await source.close()


async def test_private_networks_are_closed_also_behind_redirects(served: Site) -> None:
    served.page("/a", "secret")
    for location in (served.url, served.url.replace("127.0.0.1", "localhost"), "http://[::ffff:127.0.0.1]/"):
        source = opened(web, location, hosts="")
        with pytest.raises(Forbidden, match="an address of a private network: if sources may be fetched"):
            await fetched(source, location)
        with pytest.raises(Forbidden):
            web.check(Spec(location=location))
        await source.close()
    assert served.log == []
    served.pages["/out"] = (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, b"")
    source = opened(web, f"{served.url}/out")
    with pytest.raises(Forbidden, match=r"169\.254\.169\.254"):
        await fetched(source, f"{served.url}/out")
    await source.close()


def test_a_name_is_judged_by_the_addresses_that_are_then_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second answer is never asked for, and one private address among public ones is enough."""
    answers = [["93.184.215.14", "10.0.0.7"], ["93.184.215.14"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["fd00::1"]]

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    guard = Guard.of("*.corp.example, 10.1.0.0/16")
    with pytest.raises(Forbidden, match=r"10\.0\.0\.7"):
        guard.resolve("rebind.example", 80)
    assert guard.resolve("public.example", 80) == ["93.184.215.14"]
    for _ in range(3):
        with pytest.raises(Forbidden):
            guard.resolve("six.example", 80)
    answers += [["10.1.2.3"], ["10.9.9.9"], ["10.9.9.9"]]
    assert guard.resolve("any.example", 80) == ["10.1.2.3"]
    assert guard.resolve("wiki.corp.example", 80) == ["10.9.9.9"]
    with pytest.raises(Forbidden):
        guard.resolve("corp.example.evil.example", 80)


@pytest.mark.parametrize(
    "location", ["ftp://a.example/", "file:///etc/passwd", "http://u:p@a.example/", "", "http:///x"]
)
def test_only_web_addresses_are_taken(location: str) -> None:
    with pytest.raises(BadRequest):
        web.check(Spec(location=location))


async def test_a_sitemap_names_the_pages(served: Site) -> None:
    served.sitemap("/pages.xml", "/a", "/a#again", "/b", "https://elsewhere.example/c")
    more = f"{served.url}/d\n{served.url}/e\n"
    served.pages["/more.txt.gz"] = (200, {}, gzip.compress(more.encode()))
    index = "".join(f"<sitemap><loc>{served.url}/{name}</loc></sitemap>" for name in ("pages.xml", "more.txt.gz"))
    served.pages["/map.xml"] = (200, {}, f"<sitemapindex>{index}</sitemapindex>".encode())
    served.pages["/robots.txt"] = (200, {}, f"Sitemap: {served.url}/map.xml\n".encode())
    source = opened(sitemap, served.url)
    found = await listed(source)
    assert sorted(one.removeprefix(served.url) for one in found) == [
        "/a", "/b", "/d", "/e", "[https://elsewhere.example/c is on another site than its sitemap]",
    ]  # fmt: skip
    await source.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><body>Sign in</body></html>", "its root is 'html'"),
        (b"Service is down for maintenance", "neither XML nor a list"),
        (b"<urlset><url><loc>http://127.0.0.1/a</loc></url><url><loc>http://127", "it is cut off"),
    ],
)
async def test_half_a_sitemap_is_none(served: Site, body: bytes, words: str) -> None:
    served.pages["/sitemap.xml"] = (200, {}, body)
    source = opened(sitemap, served.url)
    with pytest.raises(SourceUnavailable, match=words):
        await listed(source)
    served.pages["/sitemap.xml"] = (404, {}, b"")
    with pytest.raises(SourceUnavailable, match="answered 404"):
        await listed(source)
    loop = f"<sitemapindex><sitemap><loc>{served.url}/sitemap.xml</loc></sitemap></sitemapindex>".encode()
    served.pages["/sitemap.xml"] = (200, {}, loop)
    with pytest.raises(SourceUnavailable, match="more than 3 sitemaps"):
        await listed(source)
    await source.close()
