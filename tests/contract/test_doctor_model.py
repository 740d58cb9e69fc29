"""`deepwell doctor --model` on real servers, and on servers with the faults it is there to find."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines.errors import ModelUnavailable
from pipelines.profiles import profile_for
from services.doctor_model import examine_model, start_flags
from services.probes import PROBES
from services.settings import load_settings
from tests import engines, tiny_r1
from tests.engines import MODEL, Engine
from tests.unit.scripted_server import delta, reply, scripted, sse

PLUMBING = {"name", "context window", "streaming and usage", "tags", "thinks (no empty think)", "cap while thinking",
            "thinking budget", "thinking skipped", "no 16-bit garbage"}  # fmt: skip
ASKED = {"template", "think prefill", "tokenizer round trip"}
KNOWLEDGE = {"language: English", "language: Japanese", "language: Chinese", "strawberry", "3 + 5"}


async def examined(server: str, url: str, model: str, tmp_path: Path, **more: Any) -> dict[str, dict[str, str]]:
    given = {"data_dir": tmp_path, "chat.server": server, "chat.url": url, **more}
    report = await examine_model(load_settings(given), model)
    assert [probe["name"] for probe in report["probes"]] == list(PROBES)
    assert report["ok"] == all(probe["outcome"] != "fail" for probe in report["probes"])
    assert all(bool(probe["fix"]) == (probe["outcome"] == "fail") for probe in report["probes"])
    return {probe["name"]: probe for probe in report["probes"]}


async def test_a_good_server_passes_and_what_the_model_cannot_know_does_not(engine: Engine, tmp_path: Path) -> None:
    probes = await examined(engine.name, engine.url, MODEL, tmp_path, **{"chat.api_key": engine.api_key})
    outcome = {name: probe["outcome"] for name, probe in probes.items()}
    assert {name for name, found in outcome.items() if found == "fail"} == set()
    assert {name for name in PLUMBING if outcome[name] != "pass"} == set()
    asked = "not applicable" if engine.name == "openai" else "pass"
    assert {outcome[name] for name in ASKED} == {asked}
    for name in KNOWLEDGE:
        assert outcome[name] == "not applicable"
        assert probes[name]["found"].startswith("model cannot: ")


async def test_another_familys_template_is_found(tmp_path: Path) -> None:
    """A distill served with ChatML, as Qwen's own template is: no <think>, and no turn it was tuned for."""
    chatml = (
        "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    )
    tiny = tiny_r1.build(tmp_path, template=chatml)
    with engines.llamacpp(tiny, tmp_path / "log") as engine:
        probes = await examined("llamacpp", engine.url, MODEL, tmp_path)
    assert probes["template"]["outcome"] == probes["think prefill"]["outcome"] == "fail"
    assert "tokenizer_config.json" in probes["template"]["fix"]
    assert "im_start" in probes["template"]["found"]


async def test_a_model_that_overflows_and_knows_nothing_fails(tmp_path: Path) -> None:
    listing = reply(b'{"data":[{"id":"deepseek-r1:7b","max_model_len":2048}]}')
    babble = reply(sse(*(delta(content="!!!!") for _ in range(20)), delta("stop"),
                       {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 20}}))  # fmt: skip
    async with scripted(*[listing] * 4, babble) as server:
        probes = await examined("openai", server.url, "deepseek-r1:7b", tmp_path)
    assert "2,048 tokens" in probes["context window"]["found"]
    assert "--dtype bfloat16" in probes["no 16-bit garbage"]["fix"]
    failed = {name for name, probe in probes.items() if probe["outcome"] == "fail"}
    assert failed >= {*KNOWLEDGE, "no 16-bit garbage", "context window"}


async def test_what_raises_in_one_probe_is_that_probes_failure(tmp_path: Path) -> None:
    listing = reply(b'{"data":[{"id":"deepseek-r1:7b"}]}')
    async with scripted(*[listing] * 4, reply(b"{}", "500 Oops")) as server:
        probes = await examined("openai", server.url, "deepseek-r1:7b", tmp_path)
    assert probes["name"]["outcome"] == "pass"
    assert "500" in probes["tags"]["found"] and probes["tags"]["outcome"] == "fail"


async def test_nobody_there(free_port: int, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no model server answers"):
        await examined("vllm", f"http://127.0.0.1:{free_port}", MODEL, tmp_path)


def test_flags_follow_the_version() -> None:
    r1 = profile_for("deepseek-r1")
    assert start_flags(r1, "vllm", "0.8.5")[0] == "--enable-reasoning"
    assert "--enable-reasoning" not in start_flags(r1, "vllm", "0.32.0")
    assert start_flags(r1, "vllm", "") == start_flags(r1, "vllm", "99")
    assert start_flags(r1, "openai") == ()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    deepwell = Path(sys.executable).with_name("deepwell")
    return subprocess.run(
        [deepwell, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "DEEPWELL_CHAT__THREADS": "1", "DEEPWELL_CHAT__CONTEXT": "4096"},
    )


def test_the_command_serves_the_embedded_model_for_the_probes(tmp_path: Path) -> None:
    done = command("--model", "-", "--json", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["profile"], report["server"]) == ("stand-in", "llamacpp")
    outcomes = {probe["name"]: probe["outcome"] for probe in report["probes"]}
    assert outcomes["tokenizer round trip"] == outcomes["streaming and usage"] == "pass"
    assert outcomes["strawberry"] == "not applicable"


def test_exit_codes(servers: Any, tmp_path: Path, free_port: int) -> None:
    at = ["--data-dir", str(tmp_path), "--server", "llamacpp", "--url"]
    done = command("--model", MODEL, *at, servers.get("llamacpp").url)
    assert done.returncode == 0 and "not applicable" in done.stdout
    assert command("--model", MODEL, *at, f"http://127.0.0.1:{free_port}").returncode == 4
    wrong = command("--model", "other", "--json", *at, servers.get("llamacpp").url)
    assert wrong.returncode == 3
    assert orjson.loads(wrong.stdout)["probes"][0]["fix"] == "set DEEPWELL_CHAT__MODEL to one of these names"
