"""One Deepwell for each data directory: a lock that the kernel takes back when its holder dies, however it dies."""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import Conflict
from services.store.database import database_errors


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a data directory: process id and port (0 until it listens)."""

    pid: int
    port: int


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
        text = json.dumps({"pid": os.getpid(), "port": port}).encode()
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
        file = os.open(path, os.O_RDWR)
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
        return Holder(int(found["pid"]), int(found["port"]))
    except (OSError, ValueError, KeyError):
        return None
