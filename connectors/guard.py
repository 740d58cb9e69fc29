"""Which hosts a source may be fetched from: not those of private networks, unless the operator named them.

Whoever may add a source could else make the service read what only it can reach: the metadata of a cloud machine, an
administrator's page on loopback. A name is looked up once, every address of it is judged, and the connection is made to
an address that was judged: a name that answers differently the next time (DNS rebinding) wins nothing. Every redirect
goes the same way.
"""

import asyncio
import fnmatch
import ipaddress
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from pipelines.errors import Forbidden, SourceUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: IPv6 addresses that stand for an IPv4 one: NAT64 (RFC 6052)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Guard:
    """What is allowed beyond public addresses: hosts (with *) and networks."""

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, private_hosts: str) -> "Guard":
        """From setting sync.private_hosts."""
        hosts: list[str] = []
        networks: list[Network] = []
        for entry in (part.strip().lower() for part in private_hosts.split(",") if part.strip()):
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.append(entry)
        return cls(tuple(hosts), tuple(networks))

    def resolve(self, host: str, port: int) -> list[str]:
        """Addresses of a host that may be asked; blocking. Raises Forbidden, SourceUnavailable."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SourceUnavailable(f"the host {host} is not known ({error}): is its name right?") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        named = any(fnmatch.fnmatchcase(host.lower(), pattern) for pattern in self.hosts)
        if not named:
            for address in addresses:
                self._judge(host, address)
        return addresses

    def _judge(self, host: str, text: str) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        for one in (address, *_inside(address)):
            if not _public(one) and not any(one in network for network in self.networks):
                raise Forbidden(
                    f"{host} is {address}, an address of a private network: if sources may be fetched from there, name "
                    "it in setting sync.private_hosts (DEEPWELL_SYNC__PRIVATE_HOSTS) on the machine of the service"
                )


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast


def _inside(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 one leads to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found: list[Address] = [one for one in (address.ipv4_mapped, address.sixtofour) if one]
    if address.teredo:
        found.append(address.teredo[1])
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


@dataclass(slots=True)
class GuardedTransport(httpx.AsyncBaseTransport):
    """Connections of an httpx client to addresses that the guard allows."""

    guard: Guard
    #: by host: TLS connections of two hosts on one address must not be mixed
    _inner: dict[str, httpx.AsyncHTTPTransport] = field(default_factory=dict)
    _tls: Any = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to one of the host's addresses. Raises Forbidden, SourceUnavailable, httpx.TransportError."""
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = await asyncio.to_thread(self.guard.resolve, host, port)
        inner = self._for(host)
        for last, address in ((address == addresses[-1], address) for address in addresses):
            try:
                return await inner.handle_async_request(_to(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if last:
                    raise
        raise SourceUnavailable(f"the host {host} has no address")

    def _for(self, host: str) -> httpx.AsyncHTTPTransport:
        if host not in self._inner:
            self._tls = self._tls or httpx.create_ssl_context()
            self._inner[host] = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        return self._inner[host]

    async def aclose(self) -> None:
        """Let go of connections."""
        for inner in self._inner.values():
            await inner.aclose()


def _to(request: httpx.Request, address: str) -> httpx.Request:
    """The same request to an address; its Host header and the name in TLS stay those of the host."""
    extensions = {**request.extensions, "sni_hostname": request.url.host}
    url = request.url.copy_with(host=address)
    stream = request.stream
    assert isinstance(stream, httpx.AsyncByteStream | AsyncIterator)  # ours is an async client
    return httpx.Request(request.method, url, headers=request.headers, stream=stream, extensions=extensions)
