"""A Git repository as a source: real ones, in a folder and over HTTP, fetched without their history."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from dulwich import porcelain
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain

from connectors.source import Item, Source, Spec, Unlisted
from connectors.sources import git
from pipelines.errors import BadRequest, Forbidden, SourceUnavailable, UnsupportedDocument

WHO = b"Test <test@example.com>"


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *_arguments: object) -> None:
        return None


def commit(folder: Path, **texts: str | None) -> None:
    """Write or remove files (__ is /, _md is .md) and commit."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/").removesuffix("_md") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            porcelain.remove(str(folder), [str(path)])
        else:
            path.write_text(text)
            porcelain.add(str(folder), [str(path)])
    porcelain.commit(str(folder), message=b"change", author=WHO, committer=WHO)


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    porcelain.init(str(folder))
    commit(folder, a_md="first", docs__b_md="second", docs__deep__c_md="third")
    return folder


@contextmanager
def served(folder: Path, password: str = "") -> Iterator[str]:
    """The repository over HTTP."""
    import base64

    app = make_wsgi_chain(DictBackend({"/repo": Repo(str(folder))}))
    wanted = "Basic " + base64.b64encode(f"token:{password}".encode()).decode()

    def guarded(environ: Any, start: Any) -> Any:
        if password and environ.get("HTTP_AUTHORIZATION") != wanted:
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Length", "0")])
            return []
        return app(environ, start)

    server = make_server("127.0.0.1", 0, guarded, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/repo"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(location: str, work: Path, hosts: str = "127.0.0.1", options: Any = None, **secrets: str) -> Source:
    spec = Spec(location=location, work_dir=work, private_hosts=hosts, options=options or {}, credentials=secrets)
    return git.open_source(spec)


async def listed(source: Source) -> dict[str, Item]:
    found = [one async for one in source.items()]
    assert not any(isinstance(one, Unlisted) for one in found)
    return {one.external_id: one for one in found if isinstance(one, Item)}


async def text(source: Source, item: Item) -> str:
    async with source.fetch(item, "") as found:
        assert found is not None and found.version == item.version
        return (await found.content.read()).decode()


@pytest.mark.parametrize("over", ["folder", "http"])
async def test_only_files_that_changed_have_another_version(upstream: Path, tmp_path: Path, over: str) -> None:
    with served(upstream) as url:
        location = url if over == "http" else str(upstream)
        source = opened(location, tmp_path / "work")
        before = await listed(source)
        assert set(before) == {"a.md", "docs/b.md", "docs/deep/c.md"}
        assert await text(source, before["docs/b.md"]) == "second"
        await source.close()
        commit(upstream, docs__b_md="changed", new_md="new", a_md=None)
        source = opened(location, tmp_path / "work")
        now = await listed(source)
        assert set(now) == {"new.md", "docs/b.md", "docs/deep/c.md"}
        assert now["docs/deep/c.md"].version == before["docs/deep/c.md"].version
        assert now["docs/b.md"].version != before["docs/b.md"].version
        assert await text(source, now["docs/b.md"]) == "changed"
        assert await listed(source) == now, "nothing to fetch"
        await source.close()
    if over == "http":
        copy = Repo(str(tmp_path / "work" / "repository"))
        assert len(list(copy.object_store.packs)) <= 2
        assert copy.get_shallow(), "the history stays where it is"
        copy.close()


async def test_a_branch_and_a_folder_of_it(upstream: Path, tmp_path: Path) -> None:
    porcelain.branch_create(str(upstream), "draft")
    commit(upstream, a_md="on the main branch")
    source = opened(str(upstream), tmp_path / "work", options={"branch": "draft", "path": "docs/"})
    assert set(await listed(source)) == {"docs/b.md", "docs/deep/c.md"}
    await source.close()
    for options, words in (
        ({"branch": "none"}, "has no branch 'none'; its branches: draft"),
        ({"path": "x"}, "no files"),
    ):
        wrong = opened(str(upstream), tmp_path / "other", options=options)
        with pytest.raises(BadRequest, match=words):
            await listed(wrong)
        await wrong.close()


async def test_a_token_opens_a_private_repository(upstream: Path, tmp_path: Path) -> None:
    with served(upstream, password="s3cret-t0ken") as url:
        closed = opened(url, tmp_path / "work")
        with pytest.raises(Forbidden, match="wants a username and a password or token") as refused:
            await listed(closed)
        assert "s3cret" not in str(refused.value)
        await closed.close()
        source = opened(url, tmp_path / "work", password="s3cret-t0ken")
        assert len(await listed(source)) == 3
        await source.close()
        assert b"s3cret" not in b"".join(p.read_bytes() for p in (tmp_path / "work").rglob("*") if p.is_file())


async def test_what_cannot_be_had_is_said(upstream: Path, tmp_path: Path) -> None:
    with served(upstream) as url:
        wrong = opened(url + "-none", tmp_path / "none")
        with pytest.raises(SourceUnavailable, match="is no Git repository, or one that is hidden"):
            await listed(wrong)
        closed = opened(url, tmp_path / "closed", hosts="")
        with pytest.raises(Forbidden, match="an address of a private network"):
            await listed(closed)
        away = url
    source = opened(away, tmp_path / "away")
    with pytest.raises(SourceUnavailable, match="cannot be fetched"):
        await listed(source)
    for location in ("ssh://git@example.com/x", "git@example.com:x", "http://u:p@example.com/x", str(tmp_path / "no")):
        with pytest.raises(BadRequest):
            git.check(Spec(location=location))


async def test_large_file_storage_and_a_damaged_copy(upstream: Path, tmp_path: Path) -> None:
    commit(upstream, film_md="version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    source = opened(str(upstream), tmp_path / "work")
    item = (await listed(source))["film.md"]
    with pytest.raises(UnsupportedDocument, match="kept in Git LFS"):
        await text(source, item)
    await source.close()
    (tmp_path / "work" / "repository" / "HEAD").unlink()
    shutil.rmtree(tmp_path / "work" / "repository" / "objects")
    again = opened(str(upstream), tmp_path / "work")
    assert len(await listed(again)) == 4
    await again.close()
