"""Objects of a bucket: S3 and what speaks its protocol (MinIO, Ceph, R2, …). Extra `s3` (boto3)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from connectors.guard import Guard
from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import BadRequest, Forbidden, NotFound, SourceUnavailable

OPTIONS = {
    "endpoint": "address of the server, such as https://minio.example.org; Amazon's if left out",
    "region": "region of the bucket",
}
CREDENTIALS = {
    "access_key": "access key id; without keys the bucket is read as the public may",
    "secret_key": "secret access key",
    "session_token": "for temporary keys",
}
SCHEDULE = "1h"
#: objects asked for at once, the most that a server gives
PAGE = 1000
_GONE = frozenset({"NoSuchKey", "NoSuchVersion"})
_NOT_ALLOWED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled",
     "InvalidObjectState", "403"}
)  # fmt: skip


def check(spec: Spec) -> Spec:
    """Raises BadRequest for what is no bucket, Forbidden for a private network."""
    _library()
    bucket, prefix = _place(spec.location)
    if ("access_key" in spec.credentials) != ("secret_key" in spec.credentials):
        raise BadRequest("an access key goes with its secret: give both, access_key and secret_key, or none")
    if endpoint := spec.options.get("endpoint", ""):
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise BadRequest(f"endpoint {endpoint} is not an address: https://host, without a password in it")
        Guard.of(spec.private_hosts).resolve(parts.hostname, 443)
    return replace(spec, location=f"s3://{bucket}/{prefix}")


def open_source(spec: Spec) -> Source:
    """The bucket. Raises BadRequest if boto3 is not installed."""
    _library()
    return Bucket(spec)


def _library() -> None:
    try:
        import boto3  # noqa: F401
    except ImportError:
        raise BadRequest("buckets need the extra s3: pip install 'deepwell[s3]'") from None


def _place(location: str) -> tuple[str, str]:
    parts = urlsplit(location)
    if parts.scheme != "s3" or not parts.netloc:
        raise BadRequest(f"{location} is not a bucket: say s3://bucket/prefix")
    return parts.netloc, location.removeprefix(f"s3://{parts.netloc}").lstrip("/")


class Bucket:
    """Objects below a prefix as a source: an external id is a key, a version its ETag and size."""

    parallel = 8

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._bucket, self._prefix = _place(spec.location)
        self._opened: Any = None

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Every object. Raises SourceUnavailable, Forbidden."""
        client = await self._client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, PaginationConfig={"PageSize": PAGE}
        )
        answers = iter(pages)
        while (page := await asyncio.to_thread(self._next, answers)) is not None:
            for found in page.get("Contents", ()):
                key = found["Key"]
                if not key.endswith("/"):  # what consoles make for folders
                    version = f"{found['ETag']}-{found['Size']}"
                    yield Item(external_id=key, name=self._name(key), version=version, size=found["Size"])

    def _next(self, answers: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        with _errors(f"s3://{self._bucket}"):
            return next(answers, None)

    def _name(self, key: str) -> str:
        folder = self._prefix.rpartition("/")[0]
        return key.removeprefix(f"{folder}/") if folder else key

    @asynccontextmanager
    async def fetch(self, item: Item, known: str) -> AsyncIterator[Fetched | None]:
        """The object. Raises NotFound if it has gone, Forbidden if it is archived or not allowed, SourceUnavailable."""
        client, address = await self._client(), f"s3://{self._bucket}/{item.external_id}"

        def get() -> dict[str, Any]:
            with _errors(address):
                found: dict[str, Any] = client.get_object(Bucket=self._bucket, Key=item.external_id)
                return found

        found = await asyncio.to_thread(get)
        body = found["Body"]
        try:
            version = f"{found['ETag']}-{found['ContentLength']}"
            yield Fetched(content=_Body(body, address), version=version, address=address)
        finally:
            await asyncio.to_thread(body.close)

    async def _client(self) -> Any:
        if self._opened is None:
            self._opened = await asyncio.to_thread(_connect, self._spec)
        return self._opened

    async def close(self) -> None:
        """Let go of connections."""
        if self._opened is not None:
            await asyncio.to_thread(self._opened.close)


class _Body:
    """The body of an object, in threads."""

    def __init__(self, body: Any, address: str) -> None:
        self._body = body
        self._address = address

    async def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes. Raises SourceUnavailable if the connection breaks."""
        return await asyncio.to_thread(self._read, size)

    def _read(self, size: int) -> bytes:
        with _errors(self._address):
            return bytes(self._body.read(size))


def _connect(spec: Spec) -> Any:
    """A client that takes nothing from this machine's own environment: neither its keys nor its endpoints."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    secrets, endpoint = spec.credentials, spec.options.get("endpoint") or None
    config = Config(
        signature_version="s3v4" if "access_key" in secrets else UNSIGNED,
        s3={"addressing_style": "path" if endpoint else "auto"},
        retries={"total_max_attempts": 4, "mode": "standard"},
        response_checksum_validation="when_required", ignore_configured_endpoint_urls=True,
    )  # fmt: skip
    client = boto3.session.Session().client(
        "s3", endpoint_url=endpoint, region_name=spec.options.get("region") or "us-east-1", config=config,
        aws_access_key_id=secrets.get("access_key"), aws_secret_access_key=secrets.get("secret_key"),
        aws_session_token=secrets.get("session_token"),
    )  # fmt: skip
    client.meta.events.register("before-send.s3", _sender(Guard.of(spec.private_hosts)))
    return client


def _sender(guard: Guard) -> Callable[..., Any]:
    """Sends botocore's requests over guarded connections, in the place of its own (its event `before-send`)."""
    import urllib3
    from botocore.awsrequest import AWSResponse
    from botocore.exceptions import EndpointConnectionError

    from connectors.guarded_pool import guarded_pool

    pool = guarded_pool(guard, maxsize=10)

    def send(request: Any, **_event: Any) -> Any:
        try:
            response = pool.urlopen(
                request.method, request.url, body=request.body, headers=request.headers, redirect=False,
                retries=False, preload_content=False, decode_content=False,
            )  # fmt: skip
            answer = AWSResponse(request.url, response.status, response.headers, response)
            if not request.stream_output:
                _ = answer.content  # read now, so that the connection can be used again
        except urllib3.exceptions.HTTPError as error:
            raise EndpointConnectionError(endpoint_url=request.url.partition("?")[0], error=error) from None
        return answer

    return send


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn what the server or the library says into our errors."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        code, words = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        if code in _GONE:
            raise NotFound(f"{what} has gone") from None
        if code in _NOT_ALLOWED:
            raise Forbidden(f"{what} may not be read ({code}): look at the keys and what they allow") from None
        raise SourceUnavailable(f"{what} cannot be read: {code} {words}") from None
    except (BotoCoreError, HTTPError, OSError) as error:
        raise SourceUnavailable(f"{what} cannot be read: {error}") from None
