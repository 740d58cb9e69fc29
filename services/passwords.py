"""Passwords of locked documents, for as long as a job needs them.

Ingestion happens in another process than the upload, maybe after a restart, so the password has to wait somewhere. It
waits in a file that only the owner of the data directory can read, in the folder of the job, which goes when the job
has ended, however that was. It is never in the database, in a log, in an environment or on a command line.
"""

import os
from pathlib import Path

_NAME = "password"


def keep(folder: Path, password: str) -> None:
    """Put a password into the folder of a job; nothing for an empty one."""
    if password:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(password)


def read(folder: Path) -> str:
    """The password in the folder of a job; "" if there is none."""
    try:
        return (folder / _NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
