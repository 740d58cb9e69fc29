"""Downloads one big file: resumed, checked, and never half there under its own name.

Bytes go to NAME.part (with NAME.part.json beside it: etag, size, checksum) and the file gets its name only when size
and checksum are right. A drop is resumed with Range and If-Range (RFC 9110, sections 13.1.5 and 14.2).
"""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import httpx

from connectors.hubs import RemoteFile, refusal
from pipelines.errors import Conflict, SourceUnavailable, StorageFull, UnreadableDocument

CHUNK = 1 << 20
#: space left free beside the file
MARGIN = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a download is: bytes there, bytes of the whole (None if unknown), bytes a second of this run."""

    name: str
    done: int
    total: int | None
    rate: float


Report = Callable[[Progress], None]


class _Dropped(Exception):
    """The transfer broke off; what came is kept. `wait` is what the server asked for, in seconds."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def http_client() -> httpx.AsyncClient:
    """Client for hubs: proxies from the environment, no limit on a whole transfer, 60 s without a byte is a drop."""
    timeout = httpx.Timeout(30.0, read=60.0)
    return httpx.AsyncClient(timeout=timeout, headers={"User-Agent": "deepwell", "Accept-Encoding": "identity"})


def check_space(directory: Path, needed: int, what: str) -> None:
    """Raise StorageFull, saying how much is missing, if `needed` bytes and a margin do not fit."""
    free = shutil.disk_usage(directory).free
    if missing := max(0, needed + MARGIN - free):
        raise StorageFull(
            f"{what} needs {needed / 1e9:.2f} GB more in {directory} and only {free / 1e9:.2f} GB are free: "
            f"{missing / 1e9:.2f} GB are missing. Free some space, or choose another directory with DEEPWELL_DATA_DIR"
        )


async def download(
    remote: RemoteFile,
    target: Path,
    client: httpx.AsyncClient,
    report: Report = lambda _: None,
    attempts: int = 8,
    pause: float = 1.0,
) -> str:
    """Download to `target`, resuming what is there, and return the SHA-256 (hex) of the file.

    `attempts` drops in a row without a new byte are borne, with pauses doubling from `pause` seconds to 60. Raises
    Conflict (another process downloads it), StorageFull, Forbidden, NotFound, UnreadableDocument (wrong bytes; they
    are removed) or SourceUnavailable (what came is kept for the next time).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(target.name + ".part"), remote.name) as part:
        transfer = _Transfer(remote, target, part, client, report)
        try:
            resumed = await transfer.begin()
            await transfer.persist(attempts, pause)
            digest = transfer.digest.hexdigest()
            if resumed and remote.sha256 not in (None, digest):  # the head was bad, or the file changed on the hub
                transfer.restart()
                await transfer.persist(attempts, pause)
                digest = transfer.digest.hexdigest()
            await asyncio.to_thread(transfer.finish, digest)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"no space left for {target}: {transfer.done / 1e9:.2f} GB came and are kept; free some space and "
                    "run the same command again, it goes on from there"
                ) from None
            raise
    return digest


@contextmanager
def _locked(part: Path, name: str) -> Iterator[FileIO]:
    """The .part file, open and locked against a second download of the same file."""
    while True:
        file = part.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Conflict(f"{name} is being downloaded by another process; wait for it, or end it") from None
        if part.exists() and os.fstat(file.fileno()).st_ino == part.stat().st_ino:
            break
        file.close()  # the other process has just finished and renamed what we opened
    try:
        yield file
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
            part.with_name(part.name + ".json").unlink(missing_ok=True)
        file.close()


class _Transfer:
    """One download in this process: the open .part file, what is in it, and its running checksum."""

    def __init__(
        self, remote: RemoteFile, target: Path, part: FileIO, client: httpx.AsyncClient, report: Report
    ) -> None:
        self.remote, self.target, self.part, self.client, self.report = remote, target, part, client, report
        self.path = target.with_name(target.name + ".part")
        self.notes = target.with_name(target.name + ".part.json")
        self.digest = hashlib.sha256()
        self.done = self.fetched = 0
        self.etag = ""
        self.started = time.monotonic()

    async def begin(self) -> bool:
        """Take over what an earlier run left; True if there was something. Checks the space for the rest."""
        size = os.fstat(self.part.fileno()).st_size
        notes = _read_notes(self.notes)
        same = notes.get("sha256") == self.remote.sha256 and notes.get("size") == self.remote.size
        if size and same and (self.remote.size is None or size <= self.remote.size):
            self.etag = str(notes.get("etag") or "")
            await asyncio.to_thread(self._hash_head)
            self.done = size
        elif size:
            self.restart()
        if self.remote.size is not None:
            check_space(self.target.parent, self.remote.size - self.done, self.remote.name)
        self.started = time.monotonic()
        return self.done > 0

    def restart(self) -> None:
        """Forget what came."""
        if os.fstat(self.part.fileno()).st_size:
            self.part.truncate(0)
        self.digest, self.done, self.etag = hashlib.sha256(), 0, ""

    def finish(self, digest: str) -> None:
        """Check the checksum and give the file its name."""
        if self.remote.sha256 not in (None, digest):
            self._remove()
            raise UnreadableDocument(
                f"{self.remote.name} came with the wrong checksum (SHA-256 {digest}, the hub says "
                f"{self.remote.sha256}); the file was removed. Pull again, or from another hub or mirror"
            )
        os.fsync(self.part.fileno())
        self.path.replace(self.target)
        self.notes.unlink(missing_ok=True)

    async def persist(self, attempts: int, pause: float) -> None:
        """Fetch until everything is there."""
        failures, furthest = 0, self.done
        while self.remote.size is None or self.done < self.remote.size:
            try:
                await self._fetch()
                return
            except (httpx.RequestError, _Dropped) as error:
                failures = 0 if self.done > furthest else failures + 1
                furthest = max(furthest, self.done)
                if failures >= attempts:
                    raise SourceUnavailable(
                        f"{self.remote.name} could not be downloaded ({error or type(error).__name__}), "
                        f"{failures} times in a row: {self.done:,} bytes are kept, run the same command again to go "
                        "on; behind a firewall set DEEPWELL_HUB__MIRROR, or import a file (docs/guides/models.md)"
                    ) from None
                asked = error.wait if isinstance(error, _Dropped) else 0.0
                await asyncio.sleep(max(asked, min(pause * 2 ** max(0, failures - 1), 60.0)))

    async def _fetch(self) -> None:
        headers = dict(self.remote.headers) | {"Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self.etag:
                headers["If-Range"] = self.etag
        async with self.client.stream("GET", self.remote.url, headers=headers, follow_redirects=True) as response:
            self._accept(response)
            self._note(response)
            async for block in response.aiter_raw():  # as it comes: a bigger chunk would be lost in a drop
                await asyncio.to_thread(self._write, block)
                self._show()
        if self.remote.size is not None and self.done < self.remote.size:
            raise _Dropped(f"the connection ended after {self.done:,} of {self.remote.size:,} bytes")

    def _accept(self, response: httpx.Response) -> None:
        """Decide what the answer is: the rest, the whole file, or a refusal."""
        status = response.status_code
        if status == 206 and self._continues(response.headers.get("Content-Range", "")):
            return
        if status == 200:  # no ranges here, or the file changed since: from the start
            self.restart()
            return
        if status in (206, 416):
            self.restart()
            raise _Dropped("the server sent another part of the file than was asked for")
        moved = bool(response.history) and response.url.host != response.history[0].url.host
        if status in (408, 425, 429) or status >= 500 or (status == 403 and moved):  # a signed address expires
            wait = response.headers.get("Retry-After", "")
            raise _Dropped(f"HTTP {status}", min(float(wait), 120.0) if wait.isdigit() else 0.0)
        raise refusal(status, self.remote.name, self.remote.page)

    def _continues(self, content_range: str) -> bool:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        total = None if match is None or match[2] == "*" else int(match[2])
        return match is not None and int(match[1]) == self.done and total in (None, self.remote.size or total)

    def _note(self, response: httpx.Response) -> None:
        etag = response.headers.get("ETag", "")
        self.etag = "" if etag.startswith("W/") else etag
        notes = {"etag": self.etag, "size": self.remote.size, "sha256": self.remote.sha256, "url": self.remote.url}
        self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[self.part.write(rest) :]
        self.digest.update(block)
        self.done += len(block)
        self.fetched += len(block)
        if self.remote.size is not None and self.done > self.remote.size:
            self._remove()
            raise UnreadableDocument(
                f"{self.remote.name} is longer than the hub says ({self.remote.size:,} bytes); what came was removed. "
                "Pull again, or from another hub or mirror"
            )

    def _show(self) -> None:
        rate = self.fetched / max(time.monotonic() - self.started, 1e-6)
        self.report(Progress(name=self.remote.name, done=self.done, total=self.remote.size, rate=rate))

    def _hash_head(self) -> None:
        self.part.seek(0)
        while block := self.part.read(CHUNK):
            self.digest.update(block)

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _read_notes(path: Path) -> dict[str, object]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
