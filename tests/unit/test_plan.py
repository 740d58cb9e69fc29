"""Plans as they are asked for: choices, refusals that say what works, settings, the machine, the command."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.engine_figures import Figures, cache_labels
from connectors.engine_settings import emit
from pipelines.errors import BadRequest
from pipelines.planner.architecture import architectures, find
from pipelines.planner.engines import matrix
from pipelines.planner.hardware import GIB, described, gpu, gpus, recognised
from pipelines.planner.layouts import Layout
from pipelines.planner.local import default_context
from pipelines.planner.plan import plan
from pipelines.planner.request import Plan, Request
from services import machine, sizing
from services.cli import main

Command = Callable[..., tuple[int, str, str]]


def planned(model: str, gpus: str, nodes: int = 1, ram: int = 0, **asked: Any) -> Plan:
    return plan(Request(model=find(model), hardware=described(gpus, nodes, ram * GIB), **asked))


# -- choices -------------------------------------------------------------------------------------------------------


def test_the_example_of_article_2() -> None:
    found = planned("deepseek-r1:32b", "8xV100-32GB", 2, engine="vllm", context=32768, users=20)
    assert found.layout == Layout(4, 2)
    assert found.dtype == "half"
    assert found.row.version == "0.8.5"
    assert found.row.environment["VLLM_USE_V1"] == "0"
    assert found.eager
    assert found.utilization == 0.90
    assert found.kv_tokens == pytest.approx(650_000, rel=0.02)
    said = planned("deepseek-r1:32b", "8xV100-32GB", 2, engine="vllm", context=32768, users=20, sequences=128)
    assert said.concurrency["full_length"] == pytest.approx(19.8, rel=0.02)
    assert any("128 requests are admitted at once, 20.0" in note for note in said.warnings)


def test_thinking_takes_room() -> None:
    found = planned("r1-32b", "4xA100-80GB", engine="vllm", context=32768)
    c = found.concurrency
    assert c["full_length"] < c["with_thinking"] < c["without_thinking"]
    assert c["with_thinking"] * 5000 == pytest.approx(c["without_thinking"] * 3500, rel=0.01)
    longer = planned("r1-0528-8b", "1xH100", engine="vllm")
    assert longer.request.thinking_tokens == 2 * planned("r1-8b", "1xH100", engine="vllm").request.thinking_tokens
    short = planned("r1-7b", "1xH100", engine="vllm", context=4096)
    assert any("thinking will be cut. --context 5000" in note for note in short.warnings)


@pytest.mark.parametrize(
    ("model", "card", "nodes", "layout"),
    [
        ("r1-7b", "1xRTX-4090", 1, (1, 1, 1)),
        ("r1-7b", "8xH100", 1, (1, 1, 8)),  # copies rather than one divided
        ("r1-32b", "2xA100-40GB", 1, (2, 1, 1)),
        ("r1-32b", "3xV100-32GB", 1, (1, 3, 1)),  # 40 heads do not divide by 3, 64 layers do
        ("r1-32b", "4xL40S", 1, (1, 2, 2)),  # no NVLink: stages instead of divided layers
        ("r1", "16xH100", 2, (8, 2, 1)),
        ("r1", "8xH200", 1, (8, 1, 1)),
    ],
)
def test_layouts(model: str, card: str, nodes: int, layout: tuple[int, int, int]) -> None:
    assert planned(model, card, nodes, engine="vllm").layout == Layout(*layout)


def test_more_gpus_hold_more() -> None:
    held = [planned("r1-32b", f"{n}xH100", engine="vllm", tensor=n).kv_tokens for n in (1, 2, 4, 8)]
    assert held == sorted(held)
    assert held[1] > 2 * held[0]


def test_the_engine_is_chosen_by_the_card() -> None:
    assert planned("r1-7b", "1xH100").row.engine == "vllm"
    assert planned("r1-7b", "1xT4").row.engine == "llamacpp"  # 14.2 GiB of weights and 14.6 of memory
    assert planned("r1-7b", "none", ram=16).row.engine == "llamacpp"
    assert planned("r1-7b", "1xV100-32GB").row.engine == "llamacpp"  # current vLLM refuses it


def test_a_gguf_on_gpu_and_cpu() -> None:
    whole = planned("r1-7b", "1xRTX-4080", engine="ollama", users=3)
    assert (whole.sequences, whole.gpu_layers) == (3, 28)
    assert whole.concurrency["full_length"] == 3, "a slot holds one request, however short"
    part = planned("r1-70b", "1xRTX-4090", engine="llamacpp", ram=64)
    assert 0 < part.gpu_layers < 80
    assert any("of the layers fit on the GPU" in note for note in part.warnings)
    assert part.speed is None, "nobody knows how fast the mixture is"
    few = planned("r1-7b", "1xRTX-3060-12GB", engine="llamacpp", users=50)
    assert 1 <= few.sequences < 50
    assert any("wait in a queue" in note for note in few.warnings)


def test_ollamas_context_trap() -> None:
    """docs/context-length: 4k below 24 GiB of GPU memory, 32k below 48, 256k from there on."""
    assert [default_context(n * GIB) for n in (0, 16, 23.9, 24, 47, 48, 80)] == [4096] * 3 + [32768] * 2 + [262144] * 2
    shown = sizing.shown(planned("r1-7b", "1xRTX-4080", engine="ollama"))
    assert shown["num_ctx"] == shown["OLLAMA_CONTEXT_LENGTH"] == 16384
    assert "4,096" in shown["reasons"]["num_ctx"] and "cuts" in shown["reasons"]["num_ctx"]


def test_the_module_for_multi_token_prediction_takes_room() -> None:
    without = planned("r1", "8xH200", engine="vllm").kv_tokens
    with_it = planned("r1", "8xH200", engine="vllm", mtp=True)
    assert with_it.kv_tokens < without
    assert sizing.shown(with_it)["speculative_config"]["method"] == "mtp"


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "card", "asked", "says", "works"),
    [
        ("r1-32b", "8xV100-32GB", {"tensor": 3}, "40 attention heads cannot be divided by 3", "TP 1 or 2 or 4 or 8"),
        ("r1-7b", "8xH100", {"tensor": 8}, "28 attention heads", "TP 1 or 2 or 4"),
        ("r1-32b", "8xV100-32GB", {"dtype": "bf16"}, "compute capability 8.0 or higher", "--dtype half"),
        ("r1-32b", "8xV100-32GB", {"quantization": "bf16"}, "8.0 or higher", "fp16"),
        ("r1", "1xH100", {}, "does not fit", "16x H100-80GB in 2 nodes"),
        ("r1", "8xH100", {}, "does not fit", "8x H20-96GB"),
        ("r1-32b", "2xV100-32GB", {}, "does not fit", "4x V100-32GB"),
        ("r1-32b", "1xRTX-4090", {}, "does not fit", "--engine llamacpp with a Q4_K_M file (19.8 GB)"),
        ("r1-32b", "4xV100-32GB", {"context": 131072, "tensor": 2, "pipeline": 1}, "does not fit", "TP 4 x PP 1"),
        ("r1-32b", "1xH100", {"context": 131072}, "--context ", "2x H100"),
        ("r1-7b", "1xH100", {"context": 200_000}, "made for 131,072 tokens", "--context 131072"),
        ("r1-7b", "1xV100-32GB", {"quantization": "fp8"}, "fp8 weights do not run", "gptq"),
        ("r1-7b", "1xV100-32GB", {"quantization": "awq"}, "awq weights do not run", "fp16"),
        ("r1-7b", "1xH100", {"quantization": "Q4_K_M"}, "GGUF", "--engine llamacpp"),
        ("r1-7b", "1xH100", {"quantization": "q9"}, "no quantization", "bf16"),
        ("r1-7b", "1x16GiB@6.1", {}, "no code for compute capability below 7.0", "llamacpp, ollama"),
        ("r1-7b", "4xH100", {"tensor": 4, "pipeline": 2}, "needs 8 GPUs and there are 4", "TP 4 x PP 1"),
        ("r1-7b", "1xH100", {"mtp": True}, "no module for multi-token prediction", "leave --speculative out"),
        ("r1-7b", "1xH100", {"kv_dtype": "q3"}, "no type 'q3'", "fp8"),
        ("r1-7b", "1xH100", {"engine": "tgi"}, "no engine", "vllm"),
        ("r1-7b", "1xH100", {"engine": "sglang"}, "sglang is not planned", "vllm"),
        ("r1-7b", "1xH100", {"utilization": 1.5}, "share from 0 to 1", "share"),
        ("r1-7b", "1xH100", {"engine": "llamacpp", "tensor": 2}, "by itself", "--engine vllm"),
        ("r1-7b", "1xH100", {"engine": "ollama", "kv_dtype": "fp8"}, "f16, q8_0 or q4_0", "q8_0"),
        ("r1-7b", "1xH100", {"engine": "llamacpp", "quantization": "awq"}, "not a GGUF type", "Q4_K_M"),
        ("r1-70b", "1xRTX-4090", {"engine": "ollama"}, "do not fit", "2x RTX-4090"),
        ("r1-7b", "none", {"engine": "llamacpp"}, "--ram", "64GiB"),
    ],
)  # fmt: skip
def test_refused_with_what_would_work(model: str, card: str, asked: dict[str, Any], says: str, works: str) -> None:
    with pytest.raises(BadRequest) as refused:
        planned(model, card, **{"engine": "vllm", **asked})
    assert says in str(refused.value)
    assert works in str(refused.value)


def test_what_is_named_as_working_works() -> None:
    """The way out of each refusal is a plan itself."""
    assert planned("r1", "16xH100", 2, engine="vllm").layout == Layout(8, 2)
    assert planned("r1", "8xH20-96GB", engine="vllm").kv_tokens > 16384
    assert planned("r1-32b", "4xV100-32GB", engine="vllm").layout == Layout(4, 1)
    assert planned("r1-32b", "1xRTX-4090", engine="llamacpp").gpu_layers == 64


def test_hardware_that_cannot_be() -> None:
    for text, nodes, says in (
        ("8xV100", 3, "--nodes 1 or 2 or 4"),
        ("0xV100", 1, "no number of GPUs"),
        ("8xQ100", 1, "no GPU"),
        ("", 1, "8xV100-32GB"),
    ):
        with pytest.raises(BadRequest, match=says):
            described(text, nodes)
    with pytest.raises(BadRequest, match="TP 4 inside a machine and PP 2 across the machines"):
        planned("r1-32b", "8xV100-32GB", 2, engine="vllm", tensor=8)
    with pytest.raises(BadRequest, match="--nodes 1"):
        planned("r1-7b", "2xH100", 2, engine="ollama")
    with pytest.raises(BadRequest, match="mixes kinds of attention"):
        find("deepseek-ai/DeepSeek-V3.2")
    with pytest.raises(BadRequest, match="Known: deepseek-r1"):
        find("gpt-5")


def test_every_model_on_every_gpu_is_planned_or_refused() -> None:
    """No combination ends in anything else, and what is planned fits."""
    seen, reasons = 0, list[str]()
    for model in architectures():
        for card in gpus():
            for count in (1, 8) if card.nvlink else (1,):
                try:
                    found = plan(Request(model=model, hardware=described(f"{count}x{card.name}"), context=8192))
                except BadRequest as refused:
                    reasons.append(str(refused))
                    continue
                seen += 1
                used = sum(found.memory[part] for part in ("weights", "kv_cache"))
                assert used < count * card.bytes
                assert found.kv_tokens >= 8192
    assert seen > 150
    assert all("What would work instead: " in reason for reason in reasons)


def test_the_matrix_leaves_no_gap() -> None:
    for engine in ("vllm", "llamacpp", "ollama", "sglang"):
        ranges = sorted((row.start, row.below) for row in matrix() if row.engine == engine)
        assert ranges[0][0] == 0 and ranges[-1][1] == 99
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert all(row.note and row.source for row in matrix())


# -- settings ------------------------------------------------------------------------------------------------------


def test_json_uses_the_engines_own_names() -> None:
    shown = sizing.shown(planned("r1-32b", "8xV100-32GB", 2, engine="vllm", context=32768, users=20))
    json.dumps(shown)
    assert {
        "tensor_parallel_size": 4, "pipeline_parallel_size": 2, "dtype": "half", "max_model_len": 32768,
        "gpu_memory_utilization": 0.9, "enforce_eager": True, "block_size": 16, "engine": "vllm",
    }.items() <= shown.items()  # fmt: skip
    assert shown["num_gpu_blocks"] * 16 == shown["kv_cache_tokens"]
    assert "not a measurement" in shown["throughput"]["label"]
    assert shown["download_bytes"] == pytest.approx(65.53e9, rel=0.001)
    assert set(shown["reasons"]) >= {"tensor_parallel_size", "dtype", "max_model_len", "trust_remote_code"}
    assert "trust_remote_code" not in shown


def test_emitted_commands_are_shell_with_reasons() -> None:
    made = [
        ("vllm", planned("r1-32b", "8xV100-32GB", 2, engine="vllm", context=32768, users=20)),
        ("vllm", planned("r1", "16xH100", 2, engine="vllm", mtp=True)),
        ("vllm", planned("r1-7b", "2xRTX-4090", engine="vllm", tensor=2, kv_dtype="fp8")),
        ("ollama", planned("r1-7b", "1xRTX-4080", engine="ollama", kv_dtype="q8_0")),
        ("ollama", planned("r1-7b", "1xRTX-4080", engine="ollama", quantization="Q8_0")),
        ("llamacpp", planned("r1-7b", "none", engine="llamacpp", ram=32, kv_dtype="q8_0")),
    ]
    for form, found in made:
        text = emit(found, form)
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stderr + text
        assert text.count("# ") > 5
        assert "--trust-remote-code" not in "".join(line for line in text.splitlines() if line[:1] != "#")
    article, cluster, pair = (emit(found, "vllm") for _, found in made[:3])
    assert "ray start --head --port=6379" in article and "&& \\\nuntil ray status" in article
    assert 'ray start --address="$HEAD:6379"' in article
    assert "--dtype half" in article and "--enable-reasoning" not in article
    assert cluster.count("vllm serve deepseek-ai/DeepSeek-R1 ") == 2 and "--headless" in cluster
    assert "--disable-custom-all-reduce" in pair and "--kv-cache-dtype fp8" in pair
    copies = emit(planned("r1-32b", "8xV100-32GB", 2, engine="vllm", users=1), "vllm")
    assert "start this on each of them" in copies and "--data-parallel-size" not in copies
    old = emit(planned("r1-7b", "4xV100-32GB", engine="vllm"), "vllm")
    assert "CUDA_VISIBLE_DEVICES" in old and "--data-parallel-size" not in old, "the V0 engine runs one copy"
    assert "--data-parallel-size 4" in emit(planned("r1-7b", "4xH100", engine="vllm"), "vllm")
    assert 'Environment="OLLAMA_CONTEXT_LENGTH=16384"' in emit(made[3][1], "ollama")
    assert "ollama create" in emit(made[4][1], "ollama")


class Overlay(yaml.SafeLoader):
    """Knows Compose's `!override`."""


Overlay.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))


@pytest.mark.parametrize(("engine", "name"), [("vllm", "vllm-gpu"), ("ollama", "ollama-gpu"), ("llamacpp", "llamacpp")])
def test_emitted_compose_is_yaml_with_reservations(engine: str, name: str) -> None:
    found = planned("r1-14b", "2xA100-80GB", engine=engine, users=4)
    text = emit(found, "compose")
    document = yaml.load(text, Overlay)
    service = document["services"][name]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["0", "1"]
    assert "ports" not in service, "only the gateway is published"
    assert "latest" not in service.get("image", "")
    assert "# " in text


def test_a_form_of_another_engine_is_refused() -> None:
    found = planned("r1-7b", "1xH100", engine="vllm")
    with pytest.raises(BadRequest, match="--emit vllm"):
        emit(found, "ollama")
    with pytest.raises(BadRequest, match="known: vllm"):
        emit(found, "helm")
    with pytest.raises(BadRequest, match="one machine"):
        emit(planned("r1", "16xH100", 2, engine="vllm"), "compose")


# -- this machine --------------------------------------------------------------------------------------------------


def test_nvidia_smis_table() -> None:
    """The line of a real H100, whose torch sees 81,079 MiB; the others after published output."""
    table = "NVIDIA H100 80GB HBM3, 81559, 480, 9.0\nNVIDIA H100 80GB HBM3, 81559, 480, 9.0\n"
    found = machine.gpus(table)
    assert [card.memory for card in found] == [81079, 81079]
    assert found[0].bandwidth == gpu("H100").bandwidth
    assert machine.gpus("Tesla V100-SXM2-32GB, 32768, [N/A], 7.0\n")[0].nvlink
    assert machine.gpus("NVIDIA GeForce RTX 4090, 24564, 360, 8.9\n")[0].tflops == gpu("4090").tflops
    assert machine.gpus("NVIDIA A100-SXM4-40GB, 40960, 500, 8.0\n")[0].bandwidth == gpu("A100-40GB").bandwidth
    assert machine.gpus("") == []
    unknown = recognised("NVIDIA Tomorrow", 500_000, 13.0)
    assert (unknown.memory, unknown.bandwidth) == (500_000, 0)


TOPOLOGY = """\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \t{link}\tPIX\t0-31\t0
GPU1\t{link}\t X \tSYS\t0-31\t0
NIC0\tPIX\tSYS\t X \t\t

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def test_links_between_gpus() -> None:
    assert machine.joined(TOPOLOGY.format(link="NV18"))
    assert not machine.joined(TOPOLOGY.format(link="PHB"))
    assert not machine.joined("")
    assert planned("r1-32b", "2xA100-80GB", engine="vllm", pipeline=1, tensor=2).layout == Layout(2, 1)


def test_links_change_the_layout(deepwell: Command) -> None:
    asked = ["--model", "r1-70b", "--engine", "vllm", "--gpus", "4xA100-80GB", "--json"]
    shown = [json.loads(deepwell(*asked, link)[1]) for link in ("--nvlink", "--no-nvlink")]
    assert [(one["tensor_parallel_size"], one["pipeline_parallel_size"]) for one in shown] == [(2, 1), (1, 2)]


def test_memory_of_this_machine(tmp_path: Path) -> None:
    assert machine.memory() > GIB
    assert machine.memory(tmp_path / "none") == 0
    (tmp_path / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    for limit, expected in (("max", 8_000_000 * 1024), ("3000000000", 2_000_000_000), ("500", 0)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("1000000000\n")
        assert machine.memory(tmp_path / "meminfo", tmp_path) == expected, limit
    assert machine.amount("64GiB") == machine.amount("64") == 64 * GIB
    with pytest.raises(BadRequest, match="64GiB"):
        machine.amount("much")


# -- comparing -----------------------------------------------------------------------------------------------------

METRICS = """# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",gpu_memory_utilization="0.9",num_gpu_blocks="65058"} 1.0
"""


def test_vllms_gauge() -> None:
    labels = cache_labels(METRICS)
    assert labels["num_gpu_blocks"] == "65058"
    assert int(labels["num_gpu_blocks"]) * int(labels["block_size"]) == 1_040_928
    assert cache_labels("vllm:num_requests_running 0") == {}


def test_prediction_beside_the_measured_engine() -> None:
    found = planned("r1-7b", "1xH100", engine="vllm", utilization=0.9, sequences=1024)
    actual = Figures("vllm", "7b", {"kv_cache_tokens": 1_040_928.0, "max_model_len": 16384.0, "block_size": 16.0})
    result = sizing.compared(found, actual)
    assert result["ok"]
    open_request = Request(model=find("r1-7b"), hardware=described("1xH100"), sequences=1024)
    says = Figures(
        "vllm", "7b", {"gpu_memory_utilization": 0.9, "max_model_len": 8192.0, "kv_cache_tokens": 1_040_928.0}
    )
    adopted = plan(sizing.as_it_runs(open_request, says))
    assert (adopted.utilization, adopted.request.context, adopted.row.engine) == (0.9, 8192, "vllm")
    assert sizing.compared(adopted, says)["ok"]
    wrong = sizing.compared(found, Figures("vllm", "7b", {"kv_cache_tokens": 500_000.0}))
    assert not wrong["ok"] and wrong["figures"][0]["deviation"] > 1
    with pytest.raises(BadRequest, match="--engine ollama"):
        sizing.compared(found, Figures("ollama", "7b"))


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def deepwell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The console script, run in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepwell", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


MODEL = ["--model", "deepseek-r1:32b", "--engine", "vllm"]
EXAMPLE = [*MODEL, "--gpus", "8xV100-32GB", "--nodes", "2", "--context", "32768", "--users", "20"]


def test_the_command(deepwell: Command) -> None:
    code, out, _ = deepwell(*EXAMPLE, "--json")
    assert code == 0
    assert json.loads(out)["tensor_parallel_size"] == 4
    code, out, _ = deepwell(*EXAMPLE)
    assert code == 0 and "not a measurement" in out and "1,500 of them thinking" in out
    code, out, _ = deepwell(*EXAMPLE, "--emit", "vllm")
    assert code == 0 and "--tensor-parallel-size 4" in out
    code, out, _ = deepwell("--model", "r1-7b", "--gpus", "1xRTX-4080", "--emit", "ollama")
    assert code == 0 and "ollama pull deepseek-r1:7b" in out


def test_the_command_refuses(deepwell: Command) -> None:
    for more, says in (
        (["--tensor-parallel-size", "3"], "TP 3 is impossible"),
        (["--dtype", "bf16"], "--dtype half"),
        (["--emit", "helm"], "known: vllm"),
    ):
        code, out, err = deepwell(*EXAMPLE, *more)
        assert (code, out) == (2, "")
        assert says in err
    assert deepwell("--model", "r1", "--gpus", "1xH100", "--engine", "vllm")[0] == 2
    assert deepwell("--model", "r1-7b", "--nodes", "2")[0] == 2
    code, _, err = deepwell("--model", "r1-7b", "--gpus", "none", "--ram", "16GiB", "--verify", "http://127.0.0.1:9")
    assert code == 4 and err


def test_the_command_without_a_model_shows_every_size(deepwell: Command) -> None:
    code, out, _ = deepwell("--gpus", "1xRTX-4090", "--json")
    rows = {row["id"]: row for row in json.loads(out)["models"]}
    assert code == 0 and set(rows) == {model.id for model in architectures()}
    assert rows["deepseek-r1:7b"]["fits"] == "vllm bf16"
    assert rows["deepseek-r1:32b"]["fits"] == "llamacpp Q4_K_M"
    assert rows["deepseek-r1:671b"]["fits"] == "" and rows["deepseek-r1:671b"]["native"] == "fp8"
    assert deepwell("--ram", "16GiB")[0] == 0
    assert "third-party" in deepwell("--matrix")[1]


def test_it_reads_this_machine(deepwell: Command) -> None:
    code, out, _ = deepwell("--model", "smollm2:135m", "--engine", "llamacpp", "--context", "2048", "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["ctx_size"] == 2048
    assert shown["concurrency"]["users"] == 1
