"""Who is asked for a key: everybody, unless the operator opened loopback and the request really comes from there."""

import pytest
from fastapi import Request

from services.auth import is_loopback, is_open, key_of, missing
from services.settings import Settings, load_settings

OPEN = load_settings({"server.open_loopback": True}, {})


def request(peer: str = "127.0.0.1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (peer, 4711), "method": "GET", "path": "/"})


def test_closed_by_default() -> None:
    assert not is_open(request(host="localhost:8100"), Settings())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(host="localhost:8100"), True),
        (request(host="127.0.0.1:8100"), True),
        (request("::1", host="[::1]:8100"), True),
        (request(host="localhost", origin="http://localhost:3210"), True),
        (request("192.168.1.7", host="localhost"), False),
        (request(host="192.168.1.7:8100"), False),
        (request(host="localhost", origin="https://evil.example"), False),
        (request(host="localhost", origin="null"), False),
        (request(host="rebound.evil.example:8100"), False),
        (request(host="localhost.evil.example"), False),
        (request(), False),
    ],
)
def test_only_what_comes_from_this_machine_is_let_in(asked: Request, expected: bool) -> None:
    assert is_open(asked, OPEN) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "deepwell.example"])
def test_beyond_loopback_the_setting_has_no_effect(host: str) -> None:
    settings = load_settings({"server.open_loopback": True, "server.host": host}, {})
    assert not is_open(request(host="localhost"), settings)


def test_what_loopback_is() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "10.0.0.1", "127.0.0.1.example", "localhost.x"))


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x_api_key": "abc"}, "abc"),
        ({"api_key": "abc"}, "abc"),
        ({"authorization": "", "api_key": "abc"}, "abc"),
        ({"authorization": "Basic abc"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({}, ""),
    ],
)
def test_where_a_key_is_looked_for(headers: dict[str, str], key: str) -> None:
    assert key_of(request(**headers)) == key


def test_what_was_wrong_is_said() -> None:
    assert "no Authorization header" in missing(request())
    assert "without a key" in missing(request(authorization="Bearer "))
    assert "'Basic'" in missing(request(authorization="Basic eDp5"))
