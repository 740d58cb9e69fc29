"""Downloads from a hub over real sockets: resume, checksums, refusals, space, and what is left behind."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from connectors import download as downloads
from connectors.download import Progress, check_space, download, http_client
from connectors.hubs import RemoteFile, huggingface, modelscope
from pipelines.errors import Conflict, Forbidden, NotFound, SourceUnavailable, StorageFull, UnreadableDocument
from tests.contract.hub_server import REPOSITORY, Hub, digest, serve

FILE = "model-Q4_K_M.gguf"
DATA = random.Random(7).randbytes(3_000_000)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve({FILE: DATA, "part/other.gguf": b"GGUF"}) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as open_client:
        yield open_client


async def find(hub: Hub, client: httpx.AsyncClient, token: str = "") -> RemoteFile:
    return await huggingface.resolve(client, REPOSITORY, FILE, mirror=hub.url, token=token)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("connector", [huggingface, modelscope])
async def test_a_hub_names_size_and_checksum(hub: Hub, client: httpx.AsyncClient, connector: object) -> None:
    remote = await connector.resolve(client, REPOSITORY, FILE, mirror=hub.url)  # type: ignore[attr-defined]
    assert (remote.size, remote.sha256) == (len(DATA), digest(DATA))
    assert REPOSITORY in remote.page


async def test_a_mirror_without_the_headers_is_asked_for_its_listing(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.state.bare = True
    remote = await find(hub, client)
    assert (remote.size, remote.sha256) == (len(DATA), digest(DATA))


@pytest.mark.parametrize("connector", [huggingface, modelscope])
async def test_a_missing_file_names_those_there_are(hub: Hub, client: httpx.AsyncClient, connector: object) -> None:
    with pytest.raises(NotFound, match=FILE):
        await connector.resolve(client, REPOSITORY, "no.gguf", mirror=hub.url)  # type: ignore[attr-defined]


async def test_a_gated_model_names_the_licence_page_and_the_setting(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.state.token = "hf_secret"
    with pytest.raises(Forbidden, match=r"huggingface\.co/unsloth.*DEEPWELL_HUB__TOKEN"):
        await find(hub, client)


@pytest.mark.parametrize("connector", [huggingface, modelscope])
async def test_a_token_opens_a_gated_model_and_stays_on_the_hub(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path, connector: object
) -> None:
    hub.state.token = "hf_secret"
    remote = await connector.resolve(  # type: ignore[attr-defined]
        client, REPOSITORY, FILE, mirror=hub.url, token="hf_secret"
    )
    await download(remote, tmp_path / FILE, client)
    (sent,) = hub.state.content_requests()
    assert sent["Host"].startswith("localhost")
    assert "hf_secret" not in str(sent)


async def test_a_hub_that_is_not_there(client: httpx.AsyncClient, free_port: int) -> None:
    for connector in (huggingface, modelscope):
        with pytest.raises(SourceUnavailable, match="DEEPWELL_HUB__MIRROR"):
            await connector.resolve(client, REPOSITORY, FILE, mirror=f"http://127.0.0.1:{free_port}")


async def test_a_whole_download(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    seen: list[Progress] = []
    got = await download(await find(hub, client), tmp_path / FILE, client, seen.append)
    assert got == digest(DATA)
    assert (tmp_path / FILE).read_bytes() == DATA
    assert left(tmp_path) == [FILE]
    assert (seen[-1].done, seen[-1].total) == (len(DATA), len(DATA))
    assert seen[-1].rate > 0


async def test_drops_are_resumed_where_they_happened(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    hub.state.drops = [1_000_000, 0, 500_000]
    await download(await find(hub, client), tmp_path / FILE, client, pause=0.01)
    assert (tmp_path / FILE).read_bytes() == DATA
    asked = [(r.get("Range"), r.get("If-Range")) for r in hub.state.content_requests()]
    assert asked[0] == (None, None)
    assert asked[1:] == [("bytes=1000000-", '"v1"')] * 2 + [("bytes=1500000-", '"v1"')]


async def test_another_process_goes_on_where_the_first_one_stopped(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    hub.state.drops = [1_000_000, 0]
    remote = await find(hub, client)
    with pytest.raises(SourceUnavailable, match="1,000,000 bytes are kept"):
        await download(remote, tmp_path / FILE, client, attempts=1, pause=0.01)
    assert left(tmp_path) == [FILE + ".part", FILE + ".part.json"]
    await download(remote, tmp_path / FILE, client)
    assert (tmp_path / FILE).read_bytes() == DATA
    assert hub.state.content_requests()[-1]["Range"] == "bytes=1000000-"


async def test_a_server_without_ranges_starts_over(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    hub.state.ranges, hub.state.drops = False, [1_000_000, 2_000_000]
    await download(await find(hub, client), tmp_path / FILE, client, pause=0.01)
    assert (tmp_path / FILE).read_bytes() == DATA


async def test_a_server_without_ranges_that_never_gets_further_is_given_up(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    hub.state.ranges, hub.state.drops = False, [1_000_000] * 50
    with pytest.raises(SourceUnavailable, match="3 times in a row"):
        await download(await find(hub, client), tmp_path / FILE, client, attempts=3, pause=0.01)


async def test_a_file_that_changed_meanwhile_is_fetched_anew(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    hub.state.drops = [1_000_000, 0]
    with pytest.raises(SourceUnavailable):
        await download(await find(hub, client), tmp_path / FILE, client, attempts=1, pause=0.01)
    new = DATA[::-1]
    hub.state.files[FILE], hub.state.etag = new, '"v2"'
    await download(await find(hub, client), tmp_path / FILE, client)
    assert (tmp_path / FILE).read_bytes() == new


async def test_a_damaged_head_is_noticed_and_fetched_anew(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    hub.state.drops = [1_000_000, 0]
    remote = await find(hub, client)
    with pytest.raises(SourceUnavailable):
        await download(remote, tmp_path / FILE, client, attempts=1, pause=0.01)
    part = tmp_path / (FILE + ".part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    await download(remote, tmp_path / FILE, client)
    assert (tmp_path / FILE).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"!", DATA + b"more"])
async def test_wrong_bytes_are_removed(hub: Hub, client: httpx.AsyncClient, tmp_path: Path, wrong: bytes) -> None:
    hub.state.wrong = wrong
    with pytest.raises(UnreadableDocument, match="removed"):
        await download(await find(hub, client), tmp_path / FILE, client)
    assert left(tmp_path) == []


async def test_overload_and_expired_addresses_are_tried_again(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    hub.state.stumbles = [503, 429, 403]
    await download(await find(hub, client), tmp_path / FILE, client, pause=0.01)
    assert (tmp_path / FILE).read_bytes() == DATA


@pytest.mark.parametrize(("status", "error"), [(403, Forbidden), (404, NotFound), (410, SourceUnavailable)])
async def test_refusals_leave_nothing_behind(
    hub: Hub, client: httpx.AsyncClient, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    remote = await find(hub, client)
    hub.state.refuse = status
    with pytest.raises(error, match=str(status)):
        await download(remote, tmp_path / FILE, client)
    assert left(tmp_path) == []


async def test_two_downloads_of_one_file_do_not_mix(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    remote = await find(hub, client)
    results = await asyncio.gather(
        *(download(remote, tmp_path / FILE, client) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result) for result in results if not isinstance(result, str)) == [Conflict]
    assert (tmp_path / FILE).read_bytes() == DATA


async def test_too_little_space_is_said_before_the_start(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    remote = await find(hub, client)
    huge = RemoteFile(name="huge", url=remote.url, size=10**16, sha256=remote.sha256)
    with pytest.raises(StorageFull, match=r"GB are missing.*DEEPWELL_DATA_DIR"):
        await download(huge, tmp_path / FILE, client)
    assert hub.state.content_requests() == []


def test_the_margin_counts(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path, free - downloads.MARGIN - (1 << 30), "a model")
    with pytest.raises(StorageFull):
        check_space(tmp_path, free - downloads.MARGIN + (1 << 30), "a model")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_disk_that_fills_up_keeps_what_came(hub: Hub, client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / (FILE + ".part")).symlink_to("/dev/full")
    with pytest.raises(StorageFull, match="no space left"):
        await download(await find(hub, client), tmp_path / FILE, client)
