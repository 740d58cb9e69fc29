"""`deepwell models …` as a user runs it, against a hub on loopback."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.cli import main
from services.models import chosen
from tests.contract.hub_server import REPOSITORY, Hub, serve
from tests.unit.test_models import make_gguf

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]
FILE = "DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve({FILE: make_gguf(tmp_path / "r1.gguf").read_bytes()}) as running:
        yield running


@pytest.fixture
def deepwell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The console script, run in this process: exit code, standard output, standard error."""

    def run(data: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepwell", "models", *arguments, "--data-dir", str(data)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_pull_use_and_remove(deepwell: Command, hub: Hub, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    code, out, err = deepwell(data, "pull", "deepseek-r1:1.5b", "--mirror", hub.url, "--hub", name, "--json")
    assert code == 0, err
    pulled = json.loads(out)["model"]
    assert pulled["state"] == "in use"
    assert pulled["verified"] is True
    assert pulled["source"] == f"{name}:{REPOSITORY}"
    assert (data / "models" / "deepseek-r1@1.5b" / FILE).exists()
    shown = json.loads(deepwell(data, "list", "--json")[1])["models"]
    assert {"id", "state", "name", "size", "licence", "context", "stand_in"} <= set(shown[0])
    states = {model["id"]: model["state"] for model in shown}
    assert states["deepseek-r1:1.5b"] == "in use"
    assert states["smollm2-135m-stand-in"] == "here"
    assert states["deepseek-r1:70b"] == "can be pulled"
    assert deepwell(data, "rm", "deepseek-r1:1.5b")[0] == 2
    assert "stand-in" in deepwell(data, "use", "smollm2-135m-stand-in")[1]
    assert json.loads(deepwell(data, "rm", "deepseek-r1:1.5b", "--json")[1])["removed"] == "deepseek-r1:1.5b"


def test_refusals_have_their_exit_codes(deepwell: Command, hub: Hub, tmp_path: Path, free_port: int) -> None:
    code, _, err = deepwell(tmp_path, "pull", "gpt-4")
    assert (code, "Known: deepseek-r1:1.5b" in err) == (2, True)
    code, _, err = deepwell(tmp_path, "pull", "deepseek-r1:1.5b", "--mirror", f"http://127.0.0.1:{free_port}")
    assert (code, "cannot be reached" in err) == (4, True)
    hub.state.wrong = bytes(len(hub.state.files[FILE]))
    code, _, err = deepwell(tmp_path, "pull", "deepseek-r1:1.5b", "--mirror", hub.url)
    assert (code, "wrong checksum" in err, "Traceback" in err) == (3, True, False)
    code, _, err = deepwell(tmp_path, "import", str(ROOT / "pyproject.toml"))
    assert (code, "not a GGUF file" in err) == (3, True)


def test_an_unfinished_pull_goes_on_and_can_be_removed(deepwell: Command, hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / "models" / "deepseek-r1@1.5b" / (FILE + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"what an interrupted pull left")
    code, out, _ = deepwell(tmp_path, "rm", "deepseek-r1:1.5b")
    assert (code, part.exists()) == (0, False)
    assert "removed deepseek-r1:1.5b" in out
    code, out, _ = deepwell(tmp_path, "pull", "deepseek-r1:1.5b", "--mirror", hub.url)
    assert (code, "checksum as the hub states it" in out, "answers from now on" in out) == (0, True, True)


def test_a_split_model_is_pulled_whole(deepwell: Command, hub: Hub, tmp_path: Path) -> None:
    name = "DeepSeek-R1-Distill-Llama-70B-Q8_0"
    for n in (1, 2):
        part = make_gguf(tmp_path / "part.gguf", split__count=2, split__no=n - 1)
        hub.state.files[f"{name}/{name}-0000{n}-of-00002.gguf"] = part.read_bytes()
    code, out, err = deepwell(tmp_path, "pull", "deepseek-r1:70b-q8_0", "--mirror", hub.url, "--json")
    assert code == 0, err
    assert json.loads(out)["model"]["verified"] is True
    first = chosen(tmp_path).path
    assert sorted(path.name for path in first.parent.glob("*.gguf")) == [
        f"{name}-0000{n}-of-00002.gguf" for n in (1, 2)
    ]
    assert first.name.endswith("00001-of-00002.gguf")
