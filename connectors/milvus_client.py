"""Connection to a Milvus server or an embedded Milvus Lite process, shared by the two indexes that use it.

pymilvus is driven in threads: its asynchronous client is bound to the first event loop and costs more CPU a call
(it retries and decodes on the loop), while the synchronous one waits outside the GIL.
"""

import asyncio
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipelines.errors import Conflict, IndexUnavailable, RagError
from pipelines.types import EmbeddingIdentity

T = TypeVar("T")
#: seconds a call may take, reconnecting included
TIMEOUT = 10.0
#: seconds for writing, loading and flushing, which wait for index builds
#: ids in one filter
LISTED = 1000
LONG = 600.0
#: Milvus Lite answers a client that knocks more often than every 5 minutes with GOAWAY too_many_pings
_CHANNEL = {"grpc.keepalive_time_ms": 330_000, "grpc.keepalive_permit_without_calls": False}
#: property of a collection that says what it was made for, as JSON
ABOUT = "deepwell.about"
_NOT_FOUND, _NOT_LOADED = {4, 100}, {101}


def lite_command(data_dir: Path, port: int) -> list[str]:
    """Command line of the process that serves Milvus Lite on 127.0.0.1; it ends in order on SIGTERM."""
    command = [sys.executable, "-P", "-m", "connectors.lite_server", "--data-dir", str(data_dir)]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def plain_url(url: str) -> str:
    """The URL without user and password, for messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class MilvusConnection:
    """One client, made at the first call and made anew after the server was away."""

    def __init__(self, url: str, token: str = "", database: str = "") -> None:
        """`url` as http://host:port; `token` as user:password or an API key; `database` "" for the default one."""
        self._url, self._token, self._database = url, token, database
        self._client: Any = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="milvus")
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes when the connection was lost: what was known about the server must be asked for again."""
        return self._generation

    async def run(self, work: Callable[[Any], T]) -> T:
        """`work(client)` in a thread. Raises IndexUnavailable or Conflict with the server's own words."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, work)

    def _work(self, work: Callable[[Any], T]) -> T:
        with self._translated():
            return work(self._connected())

    def _connected(self) -> Any:
        from pymilvus import MilvusClient

        with self._lock:
            if self._client is None:
                self._client = MilvusClient(
                    uri=self._url,
                    token=self._token,
                    db_name=self._database,
                    timeout=TIMEOUT / 2,
                    dedicated=True,
                    grpc_options=_CHANNEL,
                )
            return self._client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except RagError:
            raise
        except grpc.RpcError as error:
            self._forget()
            raise self._unavailable(str(error)) from error
        except MilvusException as error:
            if _is_connection(error):
                self._forget()
                raise self._unavailable(error.message) from error
            if "dimension" in error.message.lower():
                raise Conflict(f"the vector index refuses vectors of this length: {error.message}") from error
            raise IndexUnavailable(f"the vector database refused: {error.message}") from error

    def _unavailable(self, reason: str) -> IndexUnavailable:
        where = plain_url(self._url)
        return IndexUnavailable(f"the vector database at {where} does not answer: is it running? ({reason[:300]})")

    def _forget(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            self._generation += 1
        if client is not None:
            client.close()

    async def ping(self) -> None:
        """Return if the server answers within 2 s, else raise IndexUnavailable."""
        try:
            async with asyncio.timeout(2):
                await self.run(lambda client: client.get_server_version(timeout=2))
        except TimeoutError:
            raise self._unavailable("no answer within 2 s") from None

    async def close(self) -> None:
        """Close the client and its threads."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._forget)
        self._threads.shutdown(wait=False)


def is_missing(error: Any) -> bool:
    """The collection does not exist."""
    return error.code in _NOT_FOUND or error.compatible_code in _NOT_FOUND or "not found" in error.message.lower()


def is_not_loaded(error: Any) -> bool:
    """The collection exists but is not in memory: after a restart of the server, or released by somebody."""
    return error.code in _NOT_LOADED or "not loaded" in error.message.lower()


def _is_connection(error: Any) -> bool:
    from pymilvus.exceptions import ConnectError, ConnectionConfigException, MilvusUnavailableException

    if isinstance(error, ConnectError | ConnectionConfigException | MilvusUnavailableException):
        return True
    words = ("fail connecting", "retry timeout", "retry run out", "unavailable", "closed channel", "create connection")
    return any(word in str(error.message).lower() for word in words)


def loaded(client: Any, collection: str, call: Callable[[], T], absent: T) -> T:
    """`call()`; loads the collection and tries again if it was not in memory; `absent` if there is none."""
    from pymilvus.exceptions import MilvusException

    try:
        try:
            return call()
        except MilvusException as error:
            if not is_not_loaded(error):
                raise
            client.load_collection(collection, timeout=LONG)
            return call()
    except MilvusException as error:
        if is_missing(error):
            return absent
        raise


def create(client: Any, collection: str, schema: Any, index: Any, record: str) -> None:
    """Make and load an empty collection that keeps `record`; step by step, as one call polls twice a second."""
    options = {"schema": schema, "consistency_level": "Bounded", "properties": {ABOUT: record}}
    client.create_collection(collection, timeout=TIMEOUT, **options)
    complete(client, collection, index)


def complete(client: Any, collection: str, index: Any) -> None:
    """Give a collection its index if it has none: a kill between the steps of `create` leaves it without."""
    if not client.list_indexes(collection, timeout=TIMEOUT):
        client.create_index(collection, index, timeout=LONG, sync=False)
        client.load_collection(collection, timeout=LONG)


def about(client: Any, collection: str) -> dict[str, Any]:
    """The record that was stored with the collection; {} if somebody else made it.

    Servers keep it as description and as property, Milvus Lite 3.2 as property only.
    """
    found = client.describe_collection(collection, timeout=TIMEOUT)
    text = (found.get("properties") or {}).get(ABOUT) or found.get("description") or "{}"
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def slug(text: str) -> str:
    """`text` in the letters Milvus allows in names; others are written as their code, so that no two are the same."""
    return re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}_", text)


def all_ids(client: Any, name: str) -> list[str]:
    """Every primary key of the collection, the newest included, read page by page."""
    found: list[str] = []
    pages = client.query_iterator(
        name, batch_size=10_000, output_fields=["id"], consistency_level="Strong", timeout=LONG
    )
    try:
        while page := pages.next():
            found.extend(row["id"] for row in page)
    finally:
        pages.close()
    return found


def stored(client: Any, name: str, ids: list[str], fields: list[str]) -> list[dict[str, Any]]:
    """The rows with these primary keys that there are, the newest included."""

    def query() -> list[dict[str, Any]]:
        found = client.query(name, ids=ids, output_fields=fields, consistency_level="Strong", timeout=LONG)
        return [dict(row) for row in found]

    return loaded(client, name, query, absent=[]) if ids else []


def within(ids: Collection[str] | None) -> list[str]:
    """Filter expressions that together allow these ids and no others; one that allows all for None, none for none.

    Each search takes one. Longer lists cost Milvus Lite more than their share (500 ids 20 ms, 5,000 200 ms).
    """
    if ids is None:
        return [""]
    listed = sorted(ids)
    return [f"id in {json.dumps(listed[i : i + LISTED])}" for i in range(0, len(listed), LISTED)]


#: what makes vectors comparable; named one by one, so that a new field of the record does not orphan collections
_COMPARED = ("model", "revision", "dimension", "query_prefix", "passage_prefix", "normalised")


def collection_name(knowledge_base_id: str, identity: EmbeddingIdentity) -> str:
    """`kb_<id>_<8 hex digits of the identity's hash>`; letters Milvus does not allow are written as their code."""
    what = {field: getattr(identity, field) for field in _COMPARED}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"kb_{slug(knowledge_base_id)}_{digest[:8]}"


def collections_of(client: Any, knowledge_base_id: str) -> list[str]:
    """Names of the vector collections of a knowledge base, of every embedding identity."""
    wanted = re.compile(rf"kb_{re.escape(slug(knowledge_base_id))}_[0-9a-f]{{8}}")
    return [name for name in client.list_collections(timeout=TIMEOUT) if wanted.fullmatch(name)]
