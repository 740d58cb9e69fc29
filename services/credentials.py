"""Secrets of sources: tokens, passwords, access keys.

A sync happens in another process than the request that named the secret, again and again, so the secret has to be kept.
It is kept in a file that only the owner of the data directory can read, in the folder of the source, which goes with
the source. It is never in the database, in a log, in an answer, in an environment or on a command line.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

#: folder in the data directory: one for each source, with what it keeps between syncs
FOLDER = "sources"
_NAME = "credentials.json"


def folder_of(data_dir: Path, source_id: str) -> Path:
    """The folder of a source."""
    return data_dir / FOLDER / source_id


def keep(data_dir: Path, source_id: str, secrets: Mapping[str, str]) -> None:
    """Put secrets in the place of those there were; none removes them. Raises OSError."""
    folder = folder_of(data_dir, source_id)
    if not secrets:
        (folder / _NAME).unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{_NAME}.new"
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(secrets), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(made, folder / _NAME)


def read(data_dir: Path, source_id: str) -> dict[str, str]:
    """The secrets of a source; none if none were given."""
    try:
        found: dict[str, str] = json.loads((folder_of(data_dir, source_id) / _NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found
