"""Dify's graph engine (PyPI graphon) over the workflow files of deploy/dify/; prints what it makes of each as JSON.

Every file is inspected as Dify's import does it, every node's data is read by the node's own class, every variable must
come from a node before. What needs no plugin is run against a Deepwell, with a stand-in for Dify's code sandbox.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from graphon.dsl import DslError, inspect, loads
from graphon.nodes.answer.entities import AnswerNodeData
from graphon.nodes.code.entities import CodeNodeData
from graphon.nodes.end.entities import EndNodeData
from graphon.nodes.http_request.entities import HttpRequestNodeData
from graphon.nodes.llm.entities import LLMNodeData
from graphon.nodes.start.entities import StartNodeData
from pydantic import ValidationError

URL, KEY, MODEL, QUESTION = (os.environ[f"DEEPWELL_{name}"] for name in ("URL", "KEY", "MODEL", "QUESTION"))
FILES = sorted((Path(__file__).parents[3] / "deploy" / "dify").glob("*.yml"))
READERS = {
    "start": StartNodeData,
    "llm": LLMNodeData,
    "http-request": HttpRequestNodeData,
    "code": CodeNodeData,
    "answer": AnswerNodeData,
    "end": EndNodeData,
}
#: what a node can be asked for; knowledge-retrieval is Dify's own node and not part of graphon
OUTPUTS = {
    "llm": {"text", "reasoning_content", "usage"},
    "http-request": {"body", "status_code", "headers", "files"},
    "knowledge-retrieval": {"result"},
}


def problems(text: str) -> list[str]:
    """What is wrong with a workflow file."""
    found = []
    try:
        plan = inspect(text)
        if not plan.loadable and plan.load_reason != "Unsupported node types: knowledge-retrieval":
            found.append(str(plan.load_reason))
    except DslError as error:
        return [f"{error.code}: {error}"]
    data = yaml.safe_load(text)
    for node in data["workflow"]["graph"]["nodes"]:
        if reader := READERS.get(node["data"]["type"]):
            try:
                reader.model_validate(node["data"])
            except ValidationError as error:
                found.append(f"{node['id']}: {error}")
    return found + [f"{node} asks for {'.'.join(wanted)}" for node, wanted in missing(data)]


def missing(data: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each node with a variable that no node before it has."""
    graph, known = data["workflow"]["graph"], {"sys": {"query", "files"}, "env": set[str]()}
    known["env"] = {variable["name"] for variable in data["workflow"]["environment_variables"]}
    nodes = {node["id"]: node["data"] for node in graph["nodes"]}
    follows = {edge["source"]: edge["target"] for edge in graph["edges"]}
    node: str | None = next(name for name, each in nodes.items() if each["type"] == "start")
    while node is not None:
        for wanted in selectors(nodes[node]):
            if wanted and wanted[1] not in known.get(wanted[0], ()):
                yield node, wanted
        known[node] = outputs(nodes[node])
        node = follows.get(node)
    for left in nodes.keys() - known.keys():
        yield left, ["a way from the start"]


def selectors(value: Any) -> Iterator[list[str]]:
    """Every variable that a node's data names."""
    if isinstance(value, str):
        yield from (name.split(".") for name in re.findall(r"\{\{#([\w.]+\.[\w.]+)#\}\}", value))
    elif isinstance(value, list):
        for each in value:
            yield from selectors(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name.endswith(("value_selector", "variable_selector")):
                yield each
            else:
                yield from selectors(each)


def outputs(node: dict[str, Any]) -> set[str]:
    if node["type"] == "start":
        return {variable["variable"] for variable in node["variables"]}
    return set(node["outputs"]) if node["type"] == "code" else OUTPUTS.get(node["type"], set())


class Sandbox(BaseHTTPRequestHandler):
    """Dify's code sandbox, without its walls: runs our own code in a process."""

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        done = subprocess.run(
            [sys.executable, "-c", wanted["code"]], capture_output=True, text=True, timeout=30, check=False
        )
        error = done.stderr if done.returncode else ""
        body = json.dumps({"code": 0, "message": "success", "data": {"stdout": done.stdout, "error": error}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the last line printed is the result."""


def ran(text: str, sandbox: str, **variables: str) -> dict[str, Any]:
    """The outputs of a workflow, or its error."""
    data = yaml.safe_load(text)
    for variable in data["workflow"]["environment_variables"]:
        variable["value"] = variables[variable["name"]]
    engine = loads(
        yaml.safe_dump(data),
        credentials={"code": {"execution_endpoint": sandbox}},
        start_inputs={"question": QUESTION},
        workers=1,
    )
    outputs: Any = None
    try:
        for event in engine.run():
            outputs = getattr(event, "outputs", outputs)
    except RuntimeError as error:  # what a node's failure ends a run with
        return {"outputs": None, "error": str(error)}
    return {"outputs": outputs, "error": None}


def runs() -> dict[str, Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sandbox)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sandbox = f"http://127.0.0.1:{server.server_port}"
    text = next(path for path in FILES if path.stem == "without-plugins").read_text()
    named = {"ADDRESS": URL, "KEY": KEY, "MODEL": MODEL}
    try:
        return {
            "right": ran(text, sandbox, **named),
            "wrong key": ran(text, sandbox, **{**named, "KEY": "wrong"}),
        }
    finally:
        server.shutdown()


def broken() -> dict[str, list[str]]:
    """The check itself: files with a fault must not pass."""
    text = next(path for path in FILES if path.stem == "chat").read_text()
    return {
        "dangling edge": problems(text.replace("target: answer", "target: nowhere")),
        "wrong enum": problems(text.replace("reasoning_format: separated", "reasoning_format: apart")),
        "unknown node": problems(text.replace("type: answer", "type: reply")),
        "unknown variable": problems(text.replace("{{#llm.text#}}", "{{#llm.words#}}")),
    }


found = {"files": {path.stem: problems(path.read_text()) for path in FILES}, "broken": broken(), "runs": runs()}
print("\n" + json.dumps(found))
