"""A real PostgreSQL for tests, from the system's packages, on loopback and in a directory of its own."""

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def binaries() -> Path:
    """Where PostgreSQL's programs are; skips the test if they are not installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("needs PostgreSQL's server (Debian: apt-get install postgresql)")
    return Path(found[-1])


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root; Debian's package makes a user for it."""
    if os.getuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return ["runuser", "-u", "postgres", "--"]


class Cluster:
    """A server in a directory of its own; it may be stopped and started again, on the same port."""

    def __init__(self) -> None:
        programs, self._user = binaries(), _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="deepwell-pg-"))
        if self._user:
            shutil.chown(self._folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        data = self._folder / "data"
        self._control = [*self._user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        init = [*self._user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        self._run([*init, "--no-sync"])
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder} -c fsync=off -c max_connections=60"
        self._run([*self._control, "-o", options, "-l", str(self._folder / "log"), "start"])

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run([*self._control, "-m", "immediate", "stop"])

    def remove(self) -> None:
        """Remove everything of it."""
        shutil.rmtree(self._folder)

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)


@contextmanager
def server() -> Iterator[str]:
    """A running server; gives its URL without a database's name. Stopped and removed at the end."""
    cluster = Cluster()
    cluster.start()
    try:
        yield cluster.url
    finally:
        cluster.stop()
        cluster.remove()


def new_database(url: str, name: str) -> str:
    """Make a database; gives its URL."""
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url}/{name}"
