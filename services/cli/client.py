"""Deepwell's own REST API, as the commands call it."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines import errors
from services.settings import load_settings

Json = dict[str, Any]
#: seconds a service is waited for that has answered before
PATIENCE = 30.0


class Unreachable(errors.Unavailable):
    """No Deepwell answers at the address."""


class Api:
    """A connection to a running Deepwell. Every method raises RagError with the server's own words."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self.url, key = address_and_key(data_dir)
        self._answered = False
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=600, trust_env=False
        )

    def call(self, method: str, path: str, **request: Any) -> Json:
        """One request, one JSON object.

        A service that has answered before may be on its way back after a crash: reading is then tried again for
        PATIENCE seconds. What changes something is not repeated.
        """
        deadline = time.monotonic() + (PATIENCE if self._answered and method == "GET" else 0)
        while True:
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise Unreachable(self._unreachable(error)) from None
                time.sleep(0.3)
                continue
            self._answered = True
            return _json(response)

    def ensure_knowledge_base(self, name: str, description: str = "") -> None:
        """Make a knowledge base, unless it is there already, which is the usual case."""
        with contextlib.suppress(errors.Conflict):
            self.call("POST", "/v1/knowledge_bases", json={"name": name, "description": description})

    @contextlib.contextmanager
    def stream(self, path: str, body: Json) -> Iterator[Iterator[Json]]:
        """The `data:` events of a streamed answer, as JSON objects."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                    _json(response)
                yield _events(response)
        except httpx.TransportError as error:
            raise Unreachable(self._unreachable(error)) from None

    @contextlib.contextmanager
    def events(self, path: str) -> Iterator[Iterator[tuple[str, Json]]]:
        """Server-sent events of an address: (name, data)."""
        try:
            with self._http.stream("GET", path) as response:
                if response.status_code >= 400:
                    response.read()
                    _json(response)
                yield _named_events(response)
        except httpx.TransportError as error:
            raise Unreachable(self._unreachable(error)) from None

    def _unreachable(self, error: httpx.TransportError) -> str:
        return (
            f"no Deepwell answers at {self.url} ({error or type(error).__name__}): start it with `deepwell up`, or set "
            f"DEEPWELL_URL, or name its data directory with --data-dir"
        )


def address_and_key(data_dir: Path | None = None) -> tuple[str, str]:
    """URL and key of the Deepwell to use: by setting, else from the data directory. Raises Unreachable."""
    settings = load_settings({"data_dir": data_dir})
    url = (settings.url or _address(settings.data_dir)).rstrip("/")
    return url, settings.api_key.get_secret_value() or _key(settings.data_dir)


def _events(response: httpx.Response) -> Iterator[Json]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line[6:])
            if "error" in event:
                raise errors.RagError(event["error"]["message"])
            yield event


def _named_events(response: httpx.Response) -> Iterator[tuple[str, Json]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = json.loads(line[6:])
            if name == "error":
                raise errors.RagError(data["error"]["message"])
            yield name, data


def _json(response: httpx.Response) -> Json:
    try:
        body = response.json() if response.content else {}
    except json.JSONDecodeError:
        body = {"error": {"message": f"{response.url} answered {response.status_code} without JSON: not a Deepwell?"}}
    if response.status_code < 400 or (response.status_code == 503 and "ready" in body):
        return dict(body)
    message = body.get("error", {}).get("message", f"{response.url} answered {response.status_code}")
    raise _error(response.status_code)(message)


def _error(status: int) -> type[errors.RagError]:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.RagError) and kind.status == status:
            return kind
    return errors.RagError


def _address(data_dir: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((data_dir / "server.json").read_text())["url"])
    raise Unreachable(
        f"no Deepwell is running on {data_dir.absolute()}: start it with `deepwell up`, or set DEEPWELL_URL, or name "
        "its data directory with --data-dir"
    )


def listening_on(data_dir: Path | None, url: str) -> str:
    """The address on which the Deepwell of a data directory listens; the one it is reached at if it runs elsewhere."""
    settings = load_settings({"data_dir": data_dir})
    if not settings.url:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads((settings.data_dir / "server.json").read_text())["host"])
    return urlsplit(url).hostname or ""


def _key(data_dir: Path) -> str:
    with contextlib.suppress(OSError):
        return (data_dir / "api-key").read_text().strip()
    return ""
