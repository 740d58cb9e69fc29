"""Record tests/golden: what real servers send, byte for byte, with a tiny model of R1's architecture.

    python -m tests.record_golden            # llama.cpp, and vLLM on the CPU with and without its parser

A file is called ENGINE-VERSION-FORM.sse. Record again for a new version of an engine, and keep the old files, since
people run old versions.
"""

import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import orjson

from tests import engines, tiny_r1
from tests.engines import MODEL, Engine

GOLDEN = Path(__file__).parent / "golden"
BUDGET = {"llamacpp": "thinking_budget_tokens", "vllm": "thinking_token_budget"}
#: fields of each form's request; BUDGET stands for the engine's own name of it
FORMS: dict[str, dict[str, Any]] = {
    "split": {},
    "cut": {"max_tokens": 8},
    "budget": {"BUDGET": 5},
    "stop": {"stop": [" letter"]},
    "skipped": {"BUDGET": 0},
}
PLAIN_FORMS: dict[str, dict[str, Any]] = {"tags": {}, "tagsstop": {"stop": [" letter"]}, "refused": {"BUDGET": 5}}


def record(engine: Engine, form: str, fields: dict[str, Any]) -> None:
    """One stream into one file."""
    named = {BUDGET[engine.name] if name == "BUDGET" else name: value for name, value in fields.items()}
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "How many?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 100,
        "temperature": 0.6,
        "top_p": 0.95,
        **named,
    }
    headers = {"content-type": "application/json", "authorization": f"Bearer {engine.api_key or None}"}
    request = urllib.request.Request(f"{engine.url}/v1/chat/completions", orjson.dumps(body), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        stream = answer.read()
    ending = "txt" if form == "refused" else "sse"
    path = GOLDEN / f"{engine.name}-{engine.version}-{form}.{ending}"
    path.write_bytes(stream)
    print(f"{path.name}: {len(stream)} bytes")


def main() -> None:
    """Record every form of every server that can be run here."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        tiny = tiny_r1.build(place, thinking_tokens=12)
        for start, forms in (
            (engines.llamacpp, FORMS),
            (engines.vllm, FORMS),
            (engines.vllm_plain, PLAIN_FORMS),
        ):
            with start(tiny, place / "log") as engine:
                for form, fields in forms.items():
                    record(engine, form, fields)


if __name__ == "__main__":
    main()
