"""Files of a Git repository: the newest commit of a branch, fetched without its history. Extra `git` (dulwich)."""

import asyncio
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from connectors.guard import Guard
from connectors.guarded_pool import guarded_pool
from connectors.source import Fetched, Item, Source, Spec, Unlisted
from pipelines.errors import BadRequest, Forbidden, SourceUnavailable, UnsupportedDocument

if TYPE_CHECKING:
    from dulwich.repo import Repo

OPTIONS = {
    "branch": "the branch to follow; the repository's own choice if left out",
    "path": "a folder of the repository to take",
}
CREDENTIALS = {"username": "for http(s); any word where a token is enough", "password": "password or access token"}
SCHEDULE = "1h"
#: packs of old commits, after which the copy is fetched anew
MOST_PACKS = 30
_LFS = b"version https://git-lfs.github.com/spec/"


def check(spec: Spec) -> Spec:
    """Raises BadRequest for what is no repository, Forbidden for a private network."""
    _library()
    location = spec.location
    if "://" not in location and Path(location).expanduser().is_absolute():
        path = Path(location).expanduser().resolve()
        if not path.is_dir():
            raise BadRequest(f"{path} is not a folder on the machine where Deepwell runs")
        return replace(spec, location=str(path))
    parts = urlsplit(location)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"{location} is not a repository: https://host/path, or a folder here; ssh is not read")
    if parts.username or parts.password:
        raise BadRequest("a password in the address would be shown to everybody: give it as the secret `password`")
    Guard.of(spec.private_hosts).resolve(parts.hostname, 443)
    return spec


def open_source(spec: Spec) -> Source:
    """The repository. Raises BadRequest if dulwich is not installed."""
    _library()
    return Git(spec)


def _library() -> None:
    try:
        import dulwich  # noqa: F401
    except ImportError:
        raise BadRequest("Git repositories need the extra git: pip install 'deepwell[git]'") from None


class Git:
    """A branch as a source: an external id is a path, a version the hash of the file."""

    parallel = 1

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._copy = spec.work_dir / "repository"
        self._inner = spec.options.get("path", "").strip("/")
        self._repo: Repo | None = None

    async def items(self) -> AsyncIterator[Item | Unlisted]:
        """Every file of the newest commit. Raises SourceUnavailable, Forbidden, BadRequest for an unknown branch."""
        for item in await asyncio.to_thread(self._list):
            yield item

    def _list(self) -> list[Item | Unlisted]:
        from dulwich.object_store import iter_tree_contents

        repo = self._open()
        commit: Any = repo[self._fetch(repo)]
        found: list[Item | Unlisted] = []
        for entry in iter_tree_contents(repo.object_store, commit.tree):
            path = entry.path.decode("utf-8", "surrogateescape")
            inside = not self._inner or path.startswith(f"{self._inner}/")
            if not inside or entry.mode & 0o170000 != 0o100000:  # links and modules are no files
                continue
            if any(part.startswith(".") for part in path.split("/")):
                continue
            if any("\ud800" <= character <= "\udfff" for character in path):
                name = path.encode("utf-8", "replace").decode()
                found.append(Unlisted(prefix=name, reason=f"the name {name} is not in UTF-8: rename it"))
                continue
            found.append(Item(external_id=path, name=path, version=entry.sha.decode()))
        if self._inner and not found:
            raise BadRequest(f"{self._spec.location} has no files in {self._inner}")
        return found

    def _open(self) -> "Repo":
        from dulwich.errors import NotGitRepository
        from dulwich.repo import Repo

        if self._repo is None:
            packs = len(list((self._copy / "objects" / "pack").glob("*.pack")))
            if packs > MOST_PACKS:
                shutil.rmtree(self._copy)
            try:
                self._repo = Repo(str(self._copy))
            except NotGitRepository:
                shutil.rmtree(self._copy, ignore_errors=True)
                self._copy.mkdir(parents=True)
                self._repo = Repo.init_bare(str(self._copy))
        return self._repo

    def _fetch(self, repo: "Repo") -> bytes:
        """Bring the newest commit here. Gives its hash."""
        from dulwich.client import HTTPUnauthorized
        from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
        from urllib3.exceptions import HTTPError

        client, path = self._client()
        branch = self._spec.options.get("branch", "")
        chosen: list[bytes] = []

        def wanted(refs: Any, depth: int | None = None) -> list[bytes]:
            chosen.append(_head(refs, branch, self._spec.location))
            return [] if _whole(repo, chosen[-1]) else [chosen[-1]]

        try:
            client.fetch(path, repo, determine_wants=wanted, depth=1)
        except HTTPUnauthorized:
            raise Forbidden(f"{self._spec.location} wants a username and a password or token, or others") from None
        except NotGitRepository:
            raise SourceUnavailable(f"{self._spec.location} is no Git repository, or one that is hidden") from None
        except (HTTPError, GitProtocolError, HangupException, OSError) as error:
            raise SourceUnavailable(f"{self._spec.location} cannot be fetched: {error}") from None
        return chosen[-1]

    def _client(self) -> tuple[Any, str]:
        from dulwich.client import HttpGitClient, LocalGitClient

        location = self._spec.location
        if "://" not in location:
            return LocalGitClient(), location
        parts, secrets = urlsplit(location), self._spec.credentials
        pool = guarded_pool(Guard.of(self._spec.private_hosts))
        client = HttpGitClient(
            f"{parts.scheme}://{parts.netloc}", pool_manager=pool, username=secrets.get("username") or (
                "token" if secrets.get("password") else None
            ), password=secrets.get("password"),
        )  # fmt: skip
        return client, parts.path

    @asynccontextmanager
    async def fetch(self, item: Item, known: str) -> AsyncIterator[Fetched | None]:
        """The file, from the copy. Raises NotFound, UnsupportedDocument for a pointer to large file storage."""
        data = await asyncio.to_thread(self._read, item.version)
        if data.startswith(_LFS):
            raise UnsupportedDocument(f"{item.name} is kept in Git LFS, which is not read: add it in another way")
        address = f"{self._spec.location}#{item.external_id}"
        yield Fetched(content=_Bytes(data), version=item.version, address=address)

    def _read(self, version: str) -> bytes:
        blob: Any = self._open()[version.encode()]
        return bytes(blob.data)

    async def close(self) -> None:
        """Close the files of the copy."""
        if self._repo is not None:
            self._repo.close()
            self._repo = None


class _Bytes:
    """Bytes as something that is read."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    async def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        return self._data.read(size)


def _whole(repo: "Repo", commit: bytes) -> bool:
    """Whether a commit and the files of it are here already; a fetch that was killed leaves neither."""
    store: Any = repo.object_store
    return commit in store and store[commit].tree in store


def _head(refs: Any, branch: str, location: str) -> bytes:
    found = refs.get(f"refs/heads/{branch}".encode() if branch else b"HEAD")
    if found is None:
        names = [name.decode("utf-8", "replace") for name in refs]
        there = sorted(name.removeprefix("refs/heads/") for name in names if name.startswith("refs/heads/"))
        what = f"no branch {branch!r}" if branch else "no commit"
        raise BadRequest(f"{location} has {what}; its branches: {', '.join(there[:20]) or 'none'}")
    return bytes(found)
