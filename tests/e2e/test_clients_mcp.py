"""The official MCP SDK's client against the whole product: over HTTP and as a child process on standard input."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.conftest import Clients

BIN = Path(sys.executable).with_name("deepwell")
QUESTION = "How many days of annual leave do full-time staff have?"


@asynccontextmanager
async def connected(clients: Clients, role: str = "", mode: Any = "auto") -> AsyncIterator[Client]:
    key = clients.keys[role] if role else clients.key
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        transport = streamable_http_client(f"{clients.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


def said(result: Any) -> str:
    return "\n".join(block.text for block in result.content)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_over_http(clients: Clients, mode: str) -> None:
    async with connected(clients, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "ask", "list_knowledge_bases"}
        assert all(tool.description and tool.annotations.read_only_hint for tool in tools.values())
        assert tools["search"].input_schema["required"] == ["query"]
        found = await client.call_tool("search", {"query": "annual leave", "knowledge_bases": ["handbook"]})
        assert not found.is_error and "twenty-five days" in said(found)
        hit = found.structured_content["hits"][0]
        assert hit["document"] == "handbook.md" and hit["url"].startswith(f"{clients.url}/c/")
        answer = await client.call_tool("ask", {"question": QUESTION, "knowledge_bases": ["handbook"]})
        assert said(answer).startswith("Twenty-five days [1].") and "[1] handbook.md: http" in said(answer)
        assert answer.structured_content["citations"][0]["n"] == 1
        listed = await client.call_tool("list_knowledge_bases", {})
        assert "- handbook:" in said(listed)


async def test_a_key_decides_what_a_tool_may_see(clients: Clients) -> None:
    async with connected(clients, "bound") as client:
        assert "handbook" not in said(await client.call_tool("list_knowledge_bases", {}))
        foreign = await client.call_tool("search", {"query": "annual leave", "knowledge_bases": ["handbook"]})
        assert foreign.is_error and "twenty-five" not in said(foreign)
        own = await client.call_tool("search", {"query": "annual leave"})
        assert "marzipan" in said(own) and "twenty-five" not in said(own)
    async with connected(clients, "retrieve") as client:
        refused = await client.call_tool("ask", {"question": QUESTION})
        assert refused.is_error and "lacks the scope chat" in said(refused)


async def test_what_the_assistant_gets_wrong_is_said_in_words(clients: Clients) -> None:
    async with connected(clients) as client:
        for arguments in ({}, {"query": ""}, {"query": "x", "top_k": 1000}, {"query": 5}):
            wrong = await client.call_tool("search", arguments)
            assert wrong.is_error and said(wrong), arguments
            assert "Traceback" not in said(wrong)
        failed = await client.call_tool("ask", {"question": "REFUSE", "knowledge_bases": ["handbook"]})
        assert failed.is_error and "model server" in said(failed)


def test_without_a_key_nothing_is_served(clients: Clients) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    headers = {"Accept": "application/json, text/event-stream"}
    for more in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {clients.keys['ingest']}"}):
        answer = httpx.post(f"{clients.url}/mcp", json=hello, headers={**headers, **more})
        assert answer.status_code in (401, 403) and answer.json()["error"]["message"]
    assert httpx.get(f"{clients.url}/mcp").status_code == 401


async def test_as_a_child_process_on_standard_input(clients: Clients) -> None:
    command = StdioServerParameters(
        command=str(BIN), args=["mcp", "--data-dir", str(clients.running.data_dir)], env=dict(os.environ)
    )
    async with Client(command) as client:
        assert len((await client.list_tools()).tools) == 3
        answer = await client.call_tool("ask", {"question": QUESTION, "knowledge_bases": ["handbook"]})
        assert said(answer).startswith("Twenty-five days [1].")


async def test_a_tool_call_is_one_request_of_the_key(clients: Clients) -> None:
    """The tool's own call of the API inside the process is not counted a second time."""
    async with httpx.AsyncClient(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}) as http:
        limited = {"name": "mcp-limited", "requests_per_minute": 3}
        key = (await http.post("/v1/keys", json=limited)).json()["key"]
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "list_knowledge_bases", "arguments": {}},
    }
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(base_url=clients.url, headers=headers) as http:
        answers = [await http.post("/mcp", json=call) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert all("handbook" in answer.text for answer in answers[:3])
