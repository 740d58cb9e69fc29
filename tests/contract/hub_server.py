"""A hub on loopback that behaves like the real ones, and misbehaves on request: drops, no ranges, wrong files."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "unsloth/DeepSeek-R1-Distill-Qwen-1.5B-GGUF"


@dataclass
class HubState:
    """What the hub has and how it behaves."""

    files: dict[str, bytes]
    #: bytes after which each of the next answers breaks off; an empty list: no drops
    drops: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"v1"'
    #: status that every file request gets instead of the file
    refuse: int = 0
    #: statuses of the next content requests, before anything else
    stumbles: list[int] = field(default_factory=list)
    #: leave out X-Linked-Etag and X-Linked-Size, as some mirrors do
    bare: bool = False
    #: sent instead of the file; the stated checksum stays that of the file
    wrong: bytes | None = None
    token: str = ""
    #: (method, path, headers) of every request
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def content_requests(self) -> list[dict[str, str]]:
        return [headers for method, path, headers in self.seen if method == "GET" and path.startswith("/cdn/")]


@dataclass
class Hub:
    """Addresses: `url` is the hub; its content host has another name, as in the real world."""

    url: str
    content: str
    state: HubState


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub until the block ends."""
    state = HubState(files)

    class Handler(_Handler):
        hub_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    port = server.server_address[1]
    try:
        yield Hub(f"http://127.0.0.1:{port}", f"http://localhost:{port}", state)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub_state: HubState

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._route(body=False)

    def do_GET(self) -> None:
        self._route(body=True)

    def _route(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub_state.seen.append((self.command, path, dict(self.headers)))
        if path.startswith("/api/models/"):
            self._json([self._entry(name, data) for name, data in self.hub_state.files.items()])
        elif path.endswith("/repo/files"):
            entries = [
                {"Path": name, "Size": len(data), "Sha256": digest(data), "Type": "blob"}
                for name, data in self.hub_state.files.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": entries}})
        elif found := re.search(r"/resolve/(main|master)/(.+)", path):
            self._resolve(found[2])
        elif path.startswith("/cdn/"):
            self._content(path.removeprefix("/cdn/"), body)
        else:
            self._empty(404)

    def _entry(self, name: str, data: bytes) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(data), "lfs": {"oid": digest(data), "size": len(data)}}

    def _resolve(self, name: str) -> None:
        state = self.hub_state
        secret = (self.headers.get("Authorization", "") + self.headers.get("Cookie", ""))[-len(state.token) or None :]
        if state.refuse or (state.token and secret != state.token):
            self._empty(state.refuse or 401)
        elif name not in state.files:
            self._empty(404)
        else:
            data, port = state.files[name], self.server.server_address[1]
            linked = {} if state.bare else {"X-Linked-Etag": f'"{digest(data)}"', "X-Linked-Size": str(len(data))}
            self._empty(302, {"Location": f"http://localhost:{port}/cdn/{name}", "X-Xet-Hash": "0" * 64, **linked})

    def _content(self, name: str, body: bool) -> None:
        state = self.hub_state
        if body and state.stumbles:
            self._empty(state.stumbles.pop(0), {"Retry-After": "0"})
            return
        data = state.files[name] if state.wrong is None else state.wrong
        begin, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and state.ranges and self.headers.get("If-Range", state.etag) == state.etag:
            begin = int(wanted[1])
        if begin and begin >= len(data):
            self._empty(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("ETag", state.etag)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            limit = state.drops.pop(0) if state.drops else len(data)
            self.wfile.write(data[begin : begin + limit])
            self.close_connection = begin + limit < len(data)

    def _json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
