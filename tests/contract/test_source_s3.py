"""A bucket as a source, on a real S3 server (moto's) on loopback."""

import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from connectors.source import Item, Source, Spec
from connectors.sources import s3
from pipelines.errors import BadRequest, Forbidden, NotFound, SourceUnavailable

KEYS = {"access_key": "AKIATEST", "secret_key": "s3cret-of-the-bucket"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Any:
    """An empty bucket of this test's own."""
    resource = boto3.resource(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    made = resource.Bucket(f"b{abs(hash(request.node.name))}")
    made.create()
    return made


def opened(endpoint: str, location: str, hosts: str = "127.0.0.1", **secrets: str) -> Source:
    spec = Spec(location=location, options={"endpoint": endpoint}, credentials=secrets or KEYS, private_hosts=hosts)
    return s3.open_source(spec)


async def listed(source: Source) -> dict[str, Item]:
    return {one.external_id: one async for one in source.items() if isinstance(one, Item)}


async def fetched(source: Source, item: Item) -> tuple[bytes, str]:
    async with source.fetch(item, "") as found:
        assert found is not None
        body = b""
        while piece := await found.content.read(1 << 16):
            body += piece
        return body, found.version


async def test_objects_below_a_prefix_by_page(endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 5)
    for n in range(23):
        bucket.put_object(Key=f"docs/2026/{n}.txt", Body=f"text {n}".encode())
    bucket.put_object(Key="docs/2026/", Body=b"")
    bucket.put_object(Key="other/x.txt", Body=b"not asked for")
    source = opened(endpoint, f"s3://{bucket.name}/docs/")
    found = await listed(source)
    assert len(found) == 23
    item = found["docs/2026/7.txt"]
    assert (item.name, item.size) == ("2026/7.txt", 6)
    assert await fetched(source, item) == (b"text 7", item.version)
    bucket.put_object(Key="docs/2026/7.txt", Body=b"TEXT 7")
    bucket.Object("docs/2026/8.txt").delete()
    now = await listed(source)
    assert [key for key in now if now[key].version != found[key].version] == ["docs/2026/7.txt"]
    assert set(found) - set(now) == {"docs/2026/8.txt"}
    with pytest.raises(NotFound, match="has gone"):
        await fetched(source, found["docs/2026/8.txt"])
    await source.close()


async def test_a_large_object_comes_in_pieces(endpoint: str, bucket: Any) -> None:
    body = bytes(range(256)) * (20 << 10)
    bucket.put_object(Key="large.bin", Body=body)
    source = opened(endpoint, f"s3://{bucket.name}")
    assert (await fetched(source, (await listed(source))["large.bin"]))[0] == body
    await source.close()


async def test_what_cannot_be_had_is_said_without_secrets(endpoint: str) -> None:
    missing = opened(endpoint, "s3://no-such-bucket")
    with pytest.raises(SourceUnavailable, match="NoSuchBucket"):
        await listed(missing)
    away = opened("http://127.0.0.1:9", "s3://bucket")
    with pytest.raises(SourceUnavailable, match="cannot be read") as refused:
        await listed(away)
    assert "s3cret" not in str(refused.value)
    closed = opened(endpoint, "s3://bucket", hosts="")
    with pytest.raises(Forbidden, match="an address of a private network"):
        await listed(closed)
    assert "s3cret" not in repr(Spec(location="s3://b", credentials=KEYS))


async def test_this_machines_own_keys_are_not_used(endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may add a source must not borrow the rights of the server."""
    bucket.put_object(Key="a.txt", Body=b"public")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "OWN",
        "AWS_SECRET_ACCESS_KEY": "own",
        "AWS_ENDPOINT_URL": "http://x",
    }.items():
        monkeypatch.setenv(name, value)
    source = s3.Bucket(Spec(location=f"s3://{bucket.name}", options={"endpoint": endpoint}, private_hosts="127.0.0.1"))
    sent: list[Any] = []
    client = await source._client()
    client.meta.events.register_first("before-send.s3", lambda request, **_: sent.append(request.headers))
    await listed(source)
    assert sent and all("Authorization" not in headers for headers in sent)
    await source.close()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Spec(location="https://bucket"), "is not a bucket: say s3://bucket/prefix"),
        (Spec(location="s3://"), "is not a bucket"),
        (Spec(location="s3://b", options={"endpoint": "ftp://x"}), "is not an address"),
        (Spec(location="s3://b", credentials={"access_key": "x"}), "an access key goes with its secret"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: Spec, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        s3.check(spec)


def test_a_private_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(Forbidden):
        s3.check(Spec(location="s3://b", options={"endpoint": endpoint}))
    allowed = Spec(location="s3://b//x", options={"endpoint": endpoint}, private_hosts="127.0.0.0/8")
    assert s3.check(allowed).location == "s3://b/x"
