"""Workers' places in a data directory: `worker`, `worker-2` …, each a lock that the kernel takes back from the dead.

With SQLite there is one place. With PostgreSQL several workers share queue and data directory; each takes the first
place that is free, and its name is the executor id under which the job library notes who runs what. A place that is
free again and still has running jobs is one whose worker was killed: services.worker has another one take them over.
No clock decides who is dead, so a worker that was only slow or stopped for a while loses nothing.
"""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import Conflict
from services.lock import DirectoryLock, holder

FIRST = "worker"
_FILE = re.compile(rf"{FIRST}(-\d+)?\.lock")
#: places that are tried before giving up
MOST = 64
#: seconds after which a worker that says nothing is not well; it says something every few seconds
SILENT = 60.0


def take(data_dir: Path, several: bool) -> tuple[str, DirectoryLock]:
    """The first free place and the lock on it, taken. Raises Conflict if there is none, StorageFull."""
    for number in range(1, (MOST if several else 1) + 1):
        name = FIRST if number == 1 else f"{FIRST}-{number}"
        lock = DirectoryLock(data_dir, f"{name}.lock")
        try:
            lock.acquire()
        except Conflict:
            if not several:
                raise
        else:
            return name, lock
    raise Conflict(
        f"{MOST} workers share the data directory {data_dir}: that many have a place, stop one of them first"
    )


def left(data_dir: Path, own: str) -> Iterator[str]:
    """Places that nobody holds although somebody did: workers that are gone. Each is held while it is looked at."""
    for path in sorted(data_dir.iterdir()):
        if _FILE.fullmatch(path.name) and path.stem != own:
            with contextlib.suppress(Conflict), DirectoryLock(data_dir, path.name):
                yield path.stem


def well(data_dir: Path) -> bool:
    """Whether a worker of this machine or container holds a place and has said so lately: for health checks."""
    for path in data_dir.glob("*.lock"):
        if _FILE.fullmatch(path.name) and (who := holder(data_dir, path.name)):
            lately = time.time() - path.stat().st_mtime < SILENT
            if lately and who.host in ("", socket.gethostname()):
                return True
    return False
