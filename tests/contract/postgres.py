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


@contextmanager
def server() -> Iterator[str]:
    """A running server; gives its URL without a database's name. Stopped and removed at the end."""
    programs, user = binaries(), _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="deepwell-pg-"))
    if user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    control = [*user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    init = [*user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*init, "--no-sync"], check=True, capture_output=True, cwd=folder)
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=60"
    start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
    subprocess.run(start, check=True, capture_output=True, cwd=folder)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)
        shutil.rmtree(folder)


def new_database(url: str, name: str) -> str:
    """Make a database; gives its URL."""
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url}/{name}"
