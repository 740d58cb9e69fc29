"""`/mcp`: the Model Context Protocol over streamable HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from pipelines.types import Caller
from services.auth import needs
from services.mcp import McpResponse

router = APIRouter(tags=["mcp"])


@router.api_route("/mcp", methods=["GET", "POST", "DELETE"], include_in_schema=False)
async def mcp(request: Request, caller: Annotated[Caller, Depends(needs("chat", "retrieve"))]) -> McpResponse:
    """Tools for assistants: search, ask, list_knowledge_bases. Each asks for its own scope of the key."""
    return McpResponse(request.app.state.mcp)
