"""A web site on loopback for tests: pages with ETag or Last-Modified, robots.txt, sitemaps, redirects, faults."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What it serves, and what it was asked. Change it while it runs."""

    url: str = ""
    #: by path: status, headers, body
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    #: (path, status, headers of the request)
    log: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)

    def page(self, path: str, text: str, kind: str = "text/html", dated: bool = False) -> None:
        """A page with a validator."""
        body = text.encode()
        digest = sha256(body).hexdigest()
        validator = (
            {"Last-Modified": formatdate(int(digest[:6], 16), usegmt=True)} if dated else {"ETag": f'"{digest}"'}
        )
        self.pages[path] = (200, {"Content-Type": kind, **validator}, body)

    def sitemap(self, path: str, *paths: str) -> None:
        """A sitemap of these paths, or addresses."""
        urls = [one if one.startswith("http") else self.url + one for one in paths]
        found = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
        xml = f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{found}</urlset>'
        self.pages[path] = (200, {"Content-Type": "application/xml"}, xml.encode())

    def asked(self, path: str) -> list[int]:
        """Statuses of the answers for a path."""
        return [status for one, status, _ in self.log if one == path]


@contextmanager
def site() -> Iterator[Site]:
    """A running site."""
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = served.pages.get(self.path, (404, {}, b"no such page"))
            same = headers.get("ETag") and self.headers.get("If-None-Match") == headers["ETag"]
            since = headers.get("Last-Modified") and self.headers.get("If-Modified-Since") == headers["Last-Modified"]
            if status == 200 and (same or since):
                status, body = 304, b""
            served.log.append((self.path, status, dict(self.headers.items())))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = "Content-Length" in headers  # it promised more

        def log_message(self, format: str, *_arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
