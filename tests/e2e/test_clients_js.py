"""The JavaScript libraries of ChatBox, Cherry Studio, n8n and Open WebUI against the whole product.

The scripts are in tests/clients/js; `npm ci` brings the libraries in the versions of its lock file.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Clients
from tests.e2e.upstream import MODEL, THINKING

JS = ROOT / "tests" / "clients" / "js"
KB = f"{MODEL}-handbook"
QUESTION = "How many days of annual leave do full-time staff have?"
ANSWER, THOUGHT = "Twenty-five days [1].", "".join(THINKING)
EMBEDDER, DIMENSIONS = "multilingual-e5-small", [384, 384]
OLDEST_NODE = 20


@pytest.fixture(scope="session")
def node() -> Path:
    """Node, and the libraries installed as the lock file says."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm, which are not installed here")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"needs node {OLDEST_NODE} or newer, not {version.strip()}")
    lock, stamp = JS / "package-lock.json", JS / "node_modules" / ".deepwell-lock"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts"], cwd=JS, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, f"npm ci failed: {done.stdout}\n{done.stderr}"
        stamp.write_bytes(lock.read_bytes())
    return Path(program)


def run(node: Path, clients: Clients, script: str) -> dict[str, Any]:
    """What a script of tests/clients/js reports."""
    named = {"URL": clients.url, "KEY": clients.key, "MODEL": KB, "PLAIN": MODEL}
    named |= {"EMBEDDER": EMBEDDER, "QUESTION": QUESTION}
    env = {**os.environ, **{f"DEEPWELL_{name}": value for name, value in named.items()}}
    done = subprocess.run(
        [str(node), script], cwd=JS, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((JS / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


def test_openai(node: Path, clients: Clients) -> None:
    found = run(node, clients, "openai.mjs")
    chat = found["chat"]
    assert (chat["content"], chat["reasoning_content"]) == (ANSWER, THOUGHT)
    assert chat["annotations"][0]["url_citation"]["title"] == "handbook.md"
    stream = found["stream"]
    assert (stream["content"], stream["reasoning"]) == (ANSWER, THOUGHT)
    assert (stream["usages"], stream["annotations"], stream["ids"], stream["finish"]) == (1, 1, 1, "stop")
    assert found["runner"] == ANSWER
    assert found["responses"] == {"text": ANSWER, "status": "completed", "types": ["reasoning", "message"]}
    assert found["responsesStream"] == ANSWER
    assert found["embeddings"]["default"] == found["embeddings"]["float"] == DIMENSIONS
    assert KB in found["models"]
    assert found["wrongKey"] == "AuthenticationError 401"
    assert found["unknownModel"].startswith("NotFoundError") and KB in found["unknownModel"]
    assert found["broken"] == "APIError"


def test_ollama(node: Path, clients: Clients) -> None:
    found = run(node, clients, "ollama.mjs")
    assert (found["chat"]["content"], found["chat"]["thinking"]) == (ANSWER, THOUGHT)
    assert found["chat"]["done"] is True and found["chat"]["done_reason"] == "stop" and found["chat"]["eval_count"] == 9
    assert found["stream"] == {"content": ANSWER, "thinking": THOUGHT}
    assert found["withoutThinking"] == {"content": ANSWER, "thinking": ""}
    assert found["generate"] == ANSWER
    assert found["embed"] == DIMENSIONS
    assert f"{KB}:latest" in found["list"]
    assert "completion" in found["show"]
    assert found["unknownModel"].startswith("ResponseError") and KB in found["unknownModel"]


def test_the_ai_sdk(node: Path, clients: Clients) -> None:
    found = run(node, clients, "ai-sdk.mjs")
    compatible = found["compatible"]
    assert (compatible["text"], compatible["reasoning"], compatible["errors"]) == (ANSWER, THOUGHT, [])
    assert found["compatibleWhole"] == {"text": ANSWER, "reasoning": THOUGHT, "outputTokens": 9}
    chat = found["openaiChat"]
    assert chat["text"] == ANSWER and chat["reasoning"] == "", "this provider drops reasoning_content (ChatBox: OpenAI)"
    assert chat["sources"][0]["title"] == "handbook.md" and chat["sources"][0]["url"].startswith(f"{clients.url}/c/")
    responses = found["openaiResponses"]
    assert (responses["text"], responses["reasoning"]) == (ANSWER, THOUGHT)
    assert responses["sources"] == chat["sources"]
    assert (found["ollama"]["text"], found["ollama"]["reasoning"]) == (ANSWER, THOUGHT)
    assert found["ollamaAsItIs"]["text"] == ANSWER, "this provider sends think: false by itself"
    assert found["tools"] == dict.fromkeys(
        ("compatible", "openaiChat", "openaiResponses", "ollama"), ["The tool says rain in Kyoto."] * 2
    )
    assert found["broken"]["errors"] and "model server" in found["broken"]["errors"][0]
    assert all(lengths == DIMENSIONS for lengths in found["embeddings"].values())


def test_langchain_as_n8n_bundles_it(node: Path, clients: Clients) -> None:
    found = run(node, clients, "langchain.mjs")
    for name in ("completions", "completionsWhole"):
        assert found[name]["text"] == ANSWER, found[name]
        assert found[name]["extra"]["reasoning_content"] == THOUGHT
        assert found[name]["usage"]["total_tokens"] == 49
    assert found["responses"]["text"] == found["responsesWhole"]["text"] == ANSWER
    assert found["ollama"]["text"] == ANSWER and found["ollama"]["extra"]["reasoning_content"] == THOUGHT
    told = {"called": "weather", "args": {"city": "Kyoto"}, "text": "The tool says rain."}
    assert found["tools"] == dict.fromkeys(("completions", "responses", "ollama"), told)
    assert found["embeddings"] == {"openai": DIMENSIONS, "ollama": DIMENSIONS}
