"""Prometheus metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services import gauges
from services.api.deps import Parts
from services.api.health import states
from services.auth import Admin
from services.build import Deepwell
from services.errors import responses
from services.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}, **responses()},
)
async def metrics(request: Request, _caller: Admin, deepwell: Parts) -> Response:
    """What Prometheus scrapes; with an admin's key, or without one on the port that `metrics.port` opens."""
    counted: Metrics = request.app.state.metrics
    return Response(await text(deepwell, counted), media_type=counted.content_type)


async def text(deepwell: Deepwell, counted: Metrics) -> bytes:
    """What was counted, and what is true now."""
    return counted.text() + await gauges.read(deepwell, await states(deepwell))
