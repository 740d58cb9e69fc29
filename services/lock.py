"""One Deepwell for each data directory: a lock that the kernel takes back when its holder dies, however it dies."""

import asyncio
import fcntl
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import Conflict
from services.store.database import database_errors


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a data directory: process id and port (0 until it listens), and the machine or container it runs on."""

    pid: int
    port: int
    host: str = ""


class DirectoryLock:
    """An exclusive lock on a data directory, `name` apart: "lock" for `deepwell up`, "worker.lock" for its worker.

    `with DirectoryLock(data_dir):` or `acquire()` and `release()`. The file stays; only the lock on it counts.
    """

    def __init__(self, data_dir: Path, name: str = "lock") -> None:
        self._path = data_dir / name
        self._file: int | None = None

    def acquire(self) -> None:
        """Take it. Raises Conflict that names the holder, StorageFull."""
        with database_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # not inherited by children (PEP 446): a surviving child must not keep a dead parent's lock
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _take(file):
            os.close(file)
            raise Conflict(self._explain())
        self._file = file
        self.note(port=0)

    def note(self, port: int) -> None:
        """Write down who holds it and on which port it listens, for `holder`."""
        if self._file is None:
            raise RuntimeError("note() needs the lock: call acquire() first")
        text = json.dumps({"pid": os.getpid(), "port": port, "host": socket.gethostname()}).encode()
        with database_errors():
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))

    def release(self) -> None:
        """Give it back; not an error when it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _explain(self) -> str:
        found = read_holder(self._path)
        who = f"process {found.pid}" if found else "another process"
        where = f", which listens on port {found.port}" if found and found.port else ""
        return (
            f"data directory {self._path.parent} is in use by {who}{where}: stop that one first, "
            "or give this one its own directory with --data-dir"
        )

    def __enter__(self) -> "DirectoryLock":
        self.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


def _take(file: int) -> bool:
    for wait in (0.02, 0.05, 0.0):  # `holder` in another process has it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
        else:
            return True
    return False


def holder(data_dir: Path, name: str = "lock") -> Holder | None:
    """Who holds the lock now; None if nobody does, whatever the file says."""
    path = data_dir / name
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(path)
    finally:
        os.close(file)
    return None


def read_holder(path: Path) -> Holder | None:
    """What the lock file says, true or outdated; None if it says nothing."""
    try:
        found = json.loads(path.read_bytes())
        return Holder(int(found["pid"]), int(found["port"]), str(found.get("host", "")))
    except (OSError, ValueError, KeyError):
        return None


@asynccontextmanager
async def turn(path: Path, wait: bool = True) -> AsyncIterator[None]:
    """Hold a file for oneself among all processes; it is there only while somebody does, or died doing so.

    Waits for its turn, or raises Conflict at once if not to `wait`. Raises StorageFull.
    """
    while (file := _opened(path)) is None:
        if not wait:
            raise Conflict(f"another process works on {path.stem}")
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        # before it is let go: whoever waits sees that the name is another file now
        path.unlink(missing_ok=True)  # noqa: ASYNC240 done at once
        os.close(file)


def _opened(path: Path) -> int | None:
    """The file, locked; None if another process has it or has just removed it."""
    with database_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(file).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(file)
    return None
