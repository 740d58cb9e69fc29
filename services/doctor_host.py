"""Checks of the traps that deploying by hand is full of: what a unit file really says, which address a container can
reach, which Compose is there, whether the window holds a thought. Like the others they change nothing.
"""

import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import RagError
from pipelines.profiles import profile_for
from services.doctor import Check, address
from services.doctor_network import ollama_exposure, port, vllm_exposure
from services.settings import Settings

CURLY = re.compile("[\u201c\u201d\u2018\u2019\u00ab\u00bb]")
UNIT_DIRECTORIES = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system/ollama.service.d"))
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
#: Compose that Dify (its docs) and our own file need: `depends_on.required` is of 2.20, `!override` of 2.24
COMPOSE = (2, 24)
#: tokens of instructions around the passages
INSTRUCTIONS = 400
PROCESSES = 512


# -- files and addresses -------------------------------------------------------------------------------------------


def unit_files(_: Settings, directories: Iterable[Path] = UNIT_DIRECTORIES) -> Check:
    """No unit file has curly quotes: systemd takes them for a part of the value."""
    wrong = list(curly_lines(directories))
    if not wrong:
        return Check("unit files", True, "no curly quotes in systemd's unit files")
    path, number, line = wrong[0]
    straight = CURLY.sub('"', line)
    return Check(
        "unit files",
        False,
        f"{path}:{number} has curly quotes, which systemd reads as a part of the value: {line}",
        f"write it with straight quotes: {straight} (`systemctl edit NAME`), `systemctl daemon-reload`, restart",
    )


def curly_lines(directories: Iterable[Path]) -> Iterator[tuple[Path, int, str]]:
    """Lines with curly quotes in unit files and drop-ins, comments left out."""
    for directory in directories:
        for path in sorted(directory.glob("**/*")) if directory.is_dir() else ():
            if path.suffix not in (".service", ".conf") or not path.is_file():
                continue
            try:
                lines = path.read_text("utf-8", "replace").splitlines()
            except OSError:
                continue  # a link to nowhere, or not ours to read
            for number, line in enumerate(lines, 1):
                if CURLY.search(line) and not line.lstrip().startswith(("#", ";")):
                    yield path, number, line.strip()


def container_addresses(settings: Settings, inside: bool | None = None) -> Check:
    """Inside a container `localhost` is the container, so a server of the host is not there."""
    name = "addresses in a container"
    if not (in_container() if inside is None else inside):
        return Check(name, True, "this is no container")
    for setting, url in named_urls(settings):
        host = urlsplit(url).hostname or ""
        loopback = host == "localhost" or host.startswith("127.") or host == "::1"
        if loopback and not address(setting, url, "").ok:
            port_number = urlsplit(url).port
            other = f"host.docker.internal{f':{port_number}' if port_number else ''}"
            return Check(
                name,
                False,
                f"{setting} is {url}, which is this container itself, and nothing listens there",
                f"http://{other} reaches the host (Linux: extra_hosts host.docker.internal:host-gateway), a service of "
                "the same Compose file goes by its name",
            )
    return Check(name, True, "every address leads out of the container or is answered in it")


def in_container(marks: Iterable[Path] = CONTAINER_MARKS) -> bool:
    """Whether this process runs in a container."""
    return any(mark.exists() for mark in marks)


def named_urls(settings: Settings) -> list[tuple[str, str]]:
    """Addresses of other servers in the settings, with the variable that sets each."""
    found = {
        "DEEPWELL_CHAT__URL": settings.chat.url,
        "DEEPWELL_EMBEDDING__URL": settings.embedding.url,
        "DEEPWELL_INDEX__URL": settings.index.url,
        "DEEPWELL_STORE__URL": settings.store.url if settings.store.url.startswith("postgresql") else "",
    }
    return [(name, url) for name, url in found.items() if url]


# -- Docker --------------------------------------------------------------------------------------------------------


def compose_version(_: Settings, run: Callable[[list[str]], str] | None = None) -> Check:
    """Where Docker is, its Compose is new enough for our file and for Dify's."""
    run = run or output
    wanted = ".".join(map(str, COMPOSE))
    fix = f"install the plugin docker-compose-plugin, {wanted} or newer; `docker compose` with a space is the new one"
    if (plugin := version(run(["docker", "compose", "version", "--short"]))) is not None:
        return Check("Compose", plugin >= COMPOSE, f"docker compose {'.'.join(map(str, plugin))}", fix)
    if (old := version(run(["docker-compose", "--version"]))) is not None:
        shown = ".".join(map(str, old))
        return Check(
            "Compose", old >= COMPOSE, f"docker-compose {shown} and no plugin; Compose files need {wanted}", fix
        )
    return Check("Compose", True, "no Docker Compose here; needed for docker-compose.yml and Dify only")


def version(text: str) -> tuple[int, int] | None:
    """First two numbers of a version in a text, None where there is none."""
    match = re.search(r"\bv?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def dify_proxy(_: Settings, run: Callable[[list[str]], str] | None = None) -> Check:
    """Dify on this machine: its SSRF proxy refuses private addresses, Deepwell's too."""
    names = (run or output)(["docker", "ps", "--format", "{{.Names}}"]).split()
    proxy = next((name for name in names if "ssrf_proxy" in name), "")
    if not proxy:
        return Check("Dify's proxy", True, "no Dify runs in this machine's Docker")
    rules = (run or output)(["docker", "exec", proxy, "sh", "-c", "cat /etc/squid/*.conf /etc/squid/conf.d/*.conf"])
    allowed = [line for line in rules.splitlines() if line.strip().startswith("http_access allow")]
    ok = any("localnet" in line or "deepwell" in line.lower() or "allow all" in line for line in allowed)
    return Check(
        "Dify's proxy",
        ok or not rules,
        f"Dify runs here; {proxy} " + ("lets private addresses through" if ok else "decides what Dify may call"),
        "add Deepwell's address to the proxy's Squid configuration, above `http_access deny`, and restart it",
    )


def output(command: list[str]) -> str:
    """What a command prints, "" where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# -- the model and the machine -------------------------------------------------------------------------------------


def window(settings: Settings) -> Check:
    """The window holds the passages, a thought and an answer. Real sizes of a running server: `doctor --model`."""
    passages = settings.retrieval.top_k * settings.ingest.chunk_tokens + INSTRUCTIONS
    needed = passages + settings.chat.max_tokens
    found = f"{settings.chat.context:,} tokens for {passages:,} of passages and {settings.chat.max_tokens:,} of answer"
    if not _thinks(settings) or settings.chat.server == "openai":
        return Check("window", True, f"{found}; the model does not think" if not _thinks(settings) else found)
    return Check("window", settings.chat.context >= needed, found + " with thinking",
                 f"set DEEPWELL_CHAT__CONTEXT to {needed} or more, or give the model fewer passages "
                 "(DEEPWELL_RETRIEVAL__TOP_K); `deepwell plan` says what fits")  # fmt: skip


def _thinks(settings: Settings) -> bool:
    from services.models import chosen

    name = settings.chat.model
    try:
        if not name and settings.chat.server == "llamacpp":
            name = chosen(settings.data_dir).id
        return profile_for(name, settings.chat.profile).thinks == "always"
    except RagError:
        return False  # `chat model` says what is wrong with it


def clock(settings: Settings, now: float | None = None, synchronised: str | None = None) -> Check:
    """The clock is not behind this installation, and is kept right where several machines share their state."""
    now = time.time() if now is None else now
    if now < Path(__file__).stat().st_mtime - 86400:
        return Check("clock", False, f"{time.ctime(now)} is before this program was installed",
                     "set the clock (`timedatectl set-ntp true`): links and certificates depend on it")  # fmt: skip
    if synchronised is None:
        synchronised = output(["timedatectl", "show", "--property=NTPSynchronized", "--value"]).strip()
    shared = settings.store.url.startswith("postgresql")
    found = {"yes": "kept right by the network", "no": "not synchronised"}.get(synchronised, "looks right")
    return Check("clock", not (shared and synchronised == "no"), found,
                 "`timedatectl set-ntp true`: machines that share jobs compare their clocks")  # fmt: skip


def processes(_: Settings) -> Check:
    """Enough processes and threads: the worker's parsers and the model server are processes of their own."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    ok = limit == resource.RLIM_INFINITY or limit >= PROCESSES
    found = "no limit" if limit == resource.RLIM_INFINITY else f"limit {limit}"
    return Check("processes", ok, found, "`ulimit -u 4096`, or TasksMax= in the systemd unit")


HOST_CHECKS: tuple[Callable[[Settings], Check], ...] = (
    port,
    window,
    ollama_exposure,
    vllm_exposure,
    container_addresses,
    unit_files,
    compose_version,
    dify_proxy,
    clock,
    processes,
)
