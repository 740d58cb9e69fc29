"""Checks of what is open to the network: model servers that ask nobody for a key, and the service's own port."""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpx
import psutil

from services.doctor import Check
from services.settings import Settings

OLLAMA_PORT = 11434


def ollama_exposure(_: Settings, port: int = OLLAMA_PORT, own: Iterable[str] | None = None) -> Check:
    """An Ollama of this machine answers on loopback only: it asks nobody for a key."""
    for host in own_addresses() if own is None else own:
        if _get(f"http://{host}:{port}/api/version") is not None:
            return Check(
                "Ollama exposure",
                False,
                f"Ollama answers at {host}:{port} without a key: whoever reaches this machine can use, change and "
                "delete its models",
                "OLLAMA_HOST=127.0.0.1:11434 (systemd: `systemctl edit ollama.service`, then restart it); others reach "
                "the models through Deepwell, which asks for a key",
            )
    return Check("Ollama exposure", True, "no Ollama is open to the network")


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine, loopback left out."""
    found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries
             if entry.family == socket.AF_INET]  # fmt: skip
    return [host for host in found if not ipaddress.ip_address(host).is_loopback]


def vllm_exposure(settings: Settings) -> Check:
    """vLLM's key protects the paths under /v1 only, so the others must not be reachable from everywhere."""
    name = "vLLM exposure"
    if settings.chat.server != "vllm" or not settings.chat.url:
        return Check(name, True, "no vLLM is named by the settings")
    base = settings.chat.url.rstrip("/").removesuffix("/v1")
    open_paths = [path for path in ("/v1/models", "/metrics", "/version") if _get(base + path) is not None]
    if not open_paths:
        return Check(name, True, f"{base} answers nothing without a key")
    if is_private(urlsplit(base).hostname or ""):
        return Check(name, True, f"{', '.join(open_paths)} answer without a key, at a private address: keep it private")
    fix = "bind vLLM to a private network or to loopback, with a gateway in front that lets only /v1 through"
    if "/v1/models" in open_paths:
        fix = "start vLLM with --api-key and set DEEPWELL_CHAT__API_KEY; then " + fix
    return Check(name, False, f"{', '.join(open_paths)} at {base} answer anybody without a key", fix)


def is_private(host: str) -> bool:
    """Whether a host's name or address is of a private network, or of this machine. An unknown name is not."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(one)).is_private for one in found)


def _get(url: str) -> httpx.Response | None:
    """The answer to a request without a key, None unless it is 200."""
    try:
        answer = httpx.get(url, timeout=0.5, trust_env=False)
    except (httpx.TransportError, httpx.InvalidURL):
        return None
    return answer if answer.status_code == 200 else None


def port(settings: Settings) -> Check:
    """The service's port is free, or a Deepwell answers on it."""
    host, number = settings.server.host, settings.server.port
    if number == 0:
        return Check("port", True, "a free one is taken at start")
    if port_is_free(host, number):
        return Check("port", True, f"{number} is free")
    near = f"127.0.0.1:{number}" if host in ("0.0.0.0", "::") else f"{host}:{number}"
    if (answer := _get(f"http://{near}/healthz")) is not None and "json" in answer.headers.get("content-type", ""):
        return Check("port", True, f"a service answers at {near}/healthz")
    return Check("port", False, f"{number} is taken by another program{_owner(number)}",
                 "end it, or set DEEPWELL_SERVER__PORT (`deepwell up --port 8101`)")  # fmt: skip


def port_is_free(host: str, number: int) -> bool:
    """Whether a program could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
    return True


def _owner(number: int) -> str:
    try:
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == number and one.status == psutil.CONN_LISTEN and one.pid:
                return f" ({psutil.Process(one.pid).name()}, process {one.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""
