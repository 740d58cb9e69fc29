"""Connections of urllib3, which the clients of Git and S3 use, to addresses that the guard allows."""

import socket
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from connectors.guard import Guard

CONNECT_SECONDS, READ_SECONDS = 15.0, 60.0


def guarded_pool(guard: Guard, **more: Any) -> PoolManager:
    """A pool manager whose connections go to judged addresses only, redirects included.

    Raises Forbidden, SourceUnavailable when it is used.
    """

    def connected(self: Any) -> socket.socket:
        last: OSError | None = None
        for address in guard.resolve(self._dns_host, self.port):
            try:
                made = socket.create_connection((address, self.port), timeout=CONNECT_SECONDS)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                last = error
            else:
                return made
        raise NewConnectionError(self, f"cannot connect to {self.host}: {last}")

    plain = type("GuardedConnection", (HTTPConnection,), {"_new_conn": connected})
    secure = type("GuardedTlsConnection", (HTTPSConnection,), {"_new_conn": connected})
    pool = PoolManager(
        retries=Retry(total=3, connect=1, redirect=5, backoff_factor=0.5),
        timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), **more,
    )  # fmt: skip
    pool.pool_classes_by_scheme = {
        "http": type("GuardedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("GuardedTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    return pool
