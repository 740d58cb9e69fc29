"""Python libraries that are no part of Deepwell, each set in an environment of its own: LangChain, LlamaIndex, LiteLLM
and the base classes of Dify's plugins. The environments are kept in the user's cache directory.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Clients
from tests.e2e.upstream import MODEL, THINKING

KB = f"{MODEL}-handbook"
QUESTION = "How many days of annual leave do full-time staff have?"
ANSWER, THOUGHT = "Twenty-five days [1].", "".join(THINKING)
EMBEDDER = "multilingual-e5-small"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deepwell-client-tests"

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def environment(name: str, python: str, *options: str) -> Path:
    """The Python of an environment with tests/clients/NAME/requirements.txt in it, made once for each content of it.

    `options` are pip's.
    """
    requirements = ROOT / "tests" / "clients" / name / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [python, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *options, "-r", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        (folder / "complete").touch()
    return folder / "bin" / "python"


def run(python: Path, name: str, clients: Clients) -> dict[str, Any]:
    """What tests/clients/NAME/check.py prints on its last line."""
    named = {"URL": clients.url, "KEY": clients.key, "MODEL": KB, "EMBEDDER": EMBEDDER, "QUESTION": QUESTION}
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {f"DEEPWELL_{key}": value for key, value in named.items()}
    script = ROOT / "tests" / "clients" / name / "check.py"
    done = subprocess.run([str(python), str(script)], env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def python312() -> str:
    """A Python 3.12, which Dify's SDK wants at least."""
    if sys.version_info >= (3, 12):
        return sys.executable
    candidates = [shutil.which("python3.12"), *sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12"))]
    for candidate in candidates:
        if candidate and not subprocess.run([str(candidate), "--version"], capture_output=True, check=False).returncode:
            return str(candidate)
    pytest.skip("needs a Python 3.12 beside this one, for Dify's SDK")


@pytest.mark.timeout(1200)
def test_langchain_llamaindex_and_litellm(clients: Clients) -> None:
    found = run(environment("python", sys.executable), "python", clients)
    deepseek = found["langchain_deepseek"]
    assert deepseek["whole"] == deepseek["streamed"] == [ANSWER, THOUGHT] and deepseek["tokens"] == 49
    assert found["langchain_openai"] == [ANSWER, None], "this one drops reasoning_content (langchain issue 35006)"
    index = found["llama_index"]
    assert index["whole"] == index["streamed"] == index["completed"] == ANSWER and index["embedding"] == 384
    lite = found["litellm_in_four_ways"]
    for provider in ("openai", "hosted_vllm", "deepseek", "ollama_chat"):
        assert lite[provider] == [[ANSWER, THOUGHT]] * 2, provider
    assert lite["rerank cohere"] == lite["rerank hosted_vllm"] == 1 and lite["embedding"] == 384


@pytest.mark.timeout(1200)
def test_the_base_classes_of_difys_plugins(clients: Clients) -> None:
    found = run(environment("dify", python312()), "dify", clients)
    saves = found["saves"]
    good = {"chat", "slash", "root", "completion", "stream", "embedding", "rerank"}
    assert {name: said for name, said in saves.items() if said and name in good} == {}
    assert "401" in saves["wrong key"] and KB in saves["wrong model"]
    streamed = found["streamed"]
    assert streamed["text"].count("<think>") == streamed["text"].count("</think>") == 1, "one think block"
    assert THOUGHT in streamed["text"] and streamed["text"].endswith(ANSWER)
    assert streamed["tokens"] == 49 and streamed["finish"] == "stop"
    assert ANSWER in found["whole"]["text"] and found["whole"]["tokens"] == 49
    assert found["broken"].startswith("error: ") and "broke off" in found["broken"], "an error, not a short answer"
    assert found["embeddings"] == [384] * 3
    assert found["rerank"][0] == [1, "Full-time staff have twenty-five days of leave."]
