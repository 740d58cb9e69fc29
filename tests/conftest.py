"""Fixtures for every level of tests."""

import socket
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measuring material beside the checkout; tests that need it say so when it is not there."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (evaluation sets and documents), which is not beside this checkout")
    return SHARED


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
