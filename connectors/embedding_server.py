"""Embeddings of a server over HTTP, for every connector whose vendor has one.

A vendor's file gives its `Shape` (path, request, response) to `ServedEmbeddings`; batching, retries, checks and error
texts are here, once. OpenAI: https://platform.openai.com/docs/api-reference/embeddings/create (also vLLM, llama.cpp,
TEI, LiteLLM). Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md#generate-embeddings
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from connectors.upstream import authorization
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.rag import TextEmbeddings, Vectors
from pipelines.types import EmbeddingIdentity

ATTEMPTS = 4
LONGEST_WAIT = 30.0
RETRIED = frozenset({429, 500, 502, 503, 504})
IN_FLIGHT = 4
#: characters of one token in the estimate: words of Latin letters and the like, other scripts one by one
LATIN_CHARACTERS_PER_TOKEN = 4
FIRST_WIDE = 0x0900


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind of server is asked, and how its answer is read."""

    #: appended to the base URL
    path: str
    #: (model, texts) -> JSON body
    request: Callable[[str, list[str]], Mapping[str, Any]]
    #: JSON body -> one list of numbers for each text, in the order asked; KeyError, TypeError if it is something else
    vectors: Callable[[Any], list[list[float]]]
    #: what to do when the model is unknown there, with {model}
    missing: str = "check embedding.model and what the server lists under /models"


def _openai_request(model: str, texts: list[str]) -> Mapping[str, Any]:
    return {"model": model, "input": texts, "encoding_format": "float"}


def _openai_vectors(body: Any) -> list[list[float]]:
    return [item["embedding"] for item in sorted(body["data"], key=lambda item: int(item["index"]))]


def _ollama_request(model: str, texts: list[str]) -> Mapping[str, Any]:
    return {"model": model, "input": texts, "truncate": True}


def _ollama_vectors(body: Any) -> list[list[float]]:
    vectors: list[list[float]] = body["embeddings"]
    return vectors


OPENAI = Shape("/embeddings", _openai_request, _openai_vectors)
OLLAMA = Shape("/api/embed", _ollama_request, _ollama_vectors, "run `ollama pull {model}` on that server")


class ServedEmbeddings(TextEmbeddings):
    """Embeddings of a server. Vectors are brought to length 1 here, whatever the server does."""

    def __init__(  # noqa: PLR0913 - one argument for each setting
        self,
        url: str,
        model: str,
        shape: Shape,
        *,
        api_key: str = "",
        query_prefix: str = "",
        passage_prefix: str = "",
        max_tokens: int = 8192,
        batch: int = 32,
        timeout: float = 60.0,
    ) -> None:
        """`url` is the base URL, `timeout` seconds for one request. Nothing is sent yet. Raises BadRequest."""
        if not url.startswith(("http://", "https://")):
            raise BadRequest(f"embedding.url {url!r} is no URL: give the server's base URL, http://… or https://…")
        if not model:
            raise BadRequest(f"embedding.model is empty: name the embedding model to use on {url}")
        self.url = url.rstrip("/") + shape.path
        self._model, self._shape = model, shape
        self._headers = {"Authorization": authorization(api_key)} if api_key else {}
        self._prefixes = (query_prefix, passage_prefix)
        self._max_tokens, self._batch, self._timeout = max_tokens, batch, timeout
        self._identity: EmbeddingIdentity | None = None
        self._probing = threading.Lock()
        # A client's connections belong to one event loop, and LangChain's synchronous calls make a loop each.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    def send(self, headers: Mapping[str, str]) -> None:
        """Further headers for every request from now on."""
        self._headers |= headers

    @property
    def identity(self) -> EmbeddingIdentity:
        """Model, dimension, prefixes. The first use asks the server for one vector (blocks; see `prepare`)."""
        with self._probing:
            if self._identity is None:
                self._identity = asyncio.run(self._probe()) if not _in_loop() else _in_thread(self._probe)
            return self._identity

    async def prepare(self) -> None:
        """Find the dimension without blocking the event loop. Raises ModelUnavailable."""
        if self._identity is None:
            self._identity = await self._probe()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, because servers do not share their vocabulary: see `estimate_tokens`."""
        return [estimate_tokens(text) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, shape (len(texts), dimension). Raises ModelUnavailable, or BadRequest if refused."""
        await self.prepare()
        return await self._embed([self._prefixes[1] + text for text in texts], self.identity.dimension)

    async def embed_question(self, text: str) -> Vectors:
        """Vector of a question, shape (dimension,). Raises ModelUnavailable, or BadRequest if refused."""
        await self.prepare()
        vectors = await self._embed([self._prefixes[0] + text], self.identity.dimension)
        one: Vectors = vectors[0]
        return one

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _probe(self) -> EmbeddingIdentity:
        async with httpx.AsyncClient(timeout=self._timeout, headers=self._headers) as client:
            vectors = self._read(await self._post(client, ["dimension"]), 1)
        return EmbeddingIdentity(
            model=self._model,
            revision="",
            dimension=vectors.shape[1],
            query_prefix=self._prefixes[0],
            passage_prefix=self._prefixes[1],
            normalised=True,
            max_tokens=self._max_tokens,
        )

    async def _embed(self, texts: list[str], dimension: int) -> Vectors:
        # Servers refuse an empty input.
        ready = [self._cut(text) if text.strip() else " " for text in texts]
        client, limit = self._client(), asyncio.Semaphore(IN_FLIGHT)

        async def part(start: int) -> Vectors:
            asked = ready[start : start + self._batch]
            async with limit:
                vectors = self._read(await self._post(client, asked), len(asked))
            if vectors.shape[1] != dimension:
                raise ModelUnavailable(
                    f"{self.url} gave vectors of {vectors.shape[1]} numbers where it gave {dimension} before: "
                    f"another model answers there now under the name {self._model!r}; restart Deepwell to accept it"
                )
            return vectors

        parts = await asyncio.gather(*(part(start) for start in range(0, len(ready), self._batch)))
        return np.concatenate([np.zeros((0, dimension), np.float32), *parts])

    def _cut(self, text: str) -> str:
        tokens = estimate_tokens(text)
        return text if tokens <= self._max_tokens else text[: int(len(text) * self._max_tokens / tokens)]

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = httpx.AsyncClient(timeout=self._timeout, headers=self._headers)
        return client

    async def _post(self, client: httpx.AsyncClient, texts: list[str]) -> Any:
        """The answer's JSON. Only what surely did nothing, or says "later", is sent again."""
        body = self._shape.request(self._model, texts)
        for attempt in range(1, ATTEMPTS + 1):
            wait = 0.25 * 2**attempt
            try:
                answer = await client.post(self.url, json=body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if attempt == ATTEMPTS:
                    raise ModelUnavailable(
                        f"the embedding server {self.url} cannot be reached ({error}): start it, or correct "
                        "embedding.url (DEEPWELL_EMBEDDING__URL)"
                    ) from error
            except httpx.TimeoutException as error:
                raise ModelUnavailable(
                    f"the embedding server {self.url} did not answer within {self._timeout:.0f} s: it is overloaded, "
                    "or still loads the model"
                ) from error
            except httpx.HTTPError as error:
                raise ModelUnavailable(f"the embedding server {self.url} broke off ({error!r}): see its log") from error
            else:
                if answer.status_code not in RETRIED or attempt == ATTEMPTS:
                    return self._json(answer)
                wait = retry_after(answer.headers.get("retry-after", ""), wait)
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _json(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            try:
                return answer.json()
            except ValueError:
                raise ModelUnavailable(
                    f"{self.url} answered something that is not JSON: is embedding.url the address of its API?"
                ) from None
        said = f"{self.url} answered {answer.status_code}: {answer.text[:300].strip()}"
        match answer.status_code:
            case 401 | 403:
                raise ModelUnavailable(f"{said}. Set the right key (DEEPWELL_EMBEDDING__API_KEY)")
            case 404:
                raise ModelUnavailable(f"{said}. To fix: {self._shape.missing.format(model=self._model)}")
            case 400 | 413 | 422:
                raise BadRequest(f"{said}. If a text is too long for the model, lower ingest.chunk_tokens")
            case _:
                raise ModelUnavailable(f"{said}. See the log of that server")

    def _read(self, body: Any, count: int) -> Vectors:
        try:
            vectors = np.array(self._shape.vectors(body), np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(
                f"{self.url} answered in a form that is no embedding ({error!r}): "
                "is it an embedding model, and embedding.server the right kind?"
            ) from error
        if vectors.ndim != 2 or len(vectors) != count:
            raise ModelUnavailable(f"{self.url} gave vectors of shape {vectors.shape} for {count} texts")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise ModelUnavailable(f"{self.url} gave a vector of zeros or not-a-numbers: see the server's log")
        unit: Vectors = vectors / lengths
        return unit


def estimate_tokens(text: str) -> int:
    """Tokens of a text without its vocabulary: 4 characters of Latin, Greek, Cyrillic, Semitic script each, and one
    token for every other character (kana, kanji, hanzi, hangul …). Rather too many than too few for CJK."""
    wide = sum(ord(character) >= FIRST_WIDE for character in text)
    return wide + -(-(len(text) - wide) // LATIN_CHARACTERS_PER_TOKEN)


def retry_after(header: str, otherwise: float) -> float:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date), LONGEST_WAIT at most."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        seconds = float(header)
    except ValueError:
        try:
            when = parsedate_to_datetime(header)
        except ValueError:
            return otherwise
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(probe: Callable[[], Any]) -> EmbeddingIdentity:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        identity: EmbeddingIdentity = thread.submit(lambda: asyncio.run(probe())).result()
        return identity
