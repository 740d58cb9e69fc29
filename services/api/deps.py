"""What route functions ask for, and how they show times."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request

from services.build import Deepwell


def parts(request: Request) -> Deepwell:
    """The parts of this service."""
    deepwell: Deepwell = request.app.state.deepwell
    return deepwell


Parts = Annotated[Deepwell, Depends(parts)]


def iso(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
