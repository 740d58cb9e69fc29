"""`deepwell models show` and `deepwell prompt show`."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.profiles import profiles
from services.cli import app
from services.model_card import model_card


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", list(profiles()))
def test_every_profile_is_shown_with_its_sources(name: str, tmp_path: Path) -> None:
    card = model_card(tmp_path, "whatever", name)
    assert card["profile"] == name
    assert card["sources"] and all(card["sources"])
    assert {row[0] for row in card["handling"]} >= {"thinks", "sampling", "system prompt", "history", "window"}
    assert len(card["engines"]) >= len(profiles()[name].engines)


def test_a_distill_of_the_registry(tmp_path: Path) -> None:
    card = json.loads(run("models", "show", "deepseek-r1:7b", "--json", "--data-dir", str(tmp_path)))
    assert card["profile"] == "r1-distill"
    assert card["registry"]["base"] == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert ["vllm", "<0.9", "--enable-reasoning --reasoning-parser deepseek_r1"] in [row[:3] for row in card["engines"]]
    shown = run("models", "show", "deepseek-r1:7b", "--data-dir", str(tmp_path))
    assert "temperature 0.6, top-p 0.95" in shown and "Usage Recommendations" in shown


def test_a_name_that_nobody_knows_is_a_plain_model(tmp_path: Path) -> None:
    card = model_card(tmp_path, "mistral-nemo")
    assert (card["profile"], card["registry"], card["here"]) == ("plain", {}, {})


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_the_prompt_has_deepseeks_structure_with_passages_filled_in(language: str) -> None:
    shown = json.loads(run("prompt", "show", "--language", language, "--json"))
    (turn,) = shown["messages"]
    assert turn["role"] == "user", "R1 has no system turn"
    order = [turn["content"].index(mark) for mark in ("[webpage 1 begin]", "[webpage 1 end]", "[webpage 2 begin]",
             "[webpage 2 end]", "[webpage X begin]", "[citation:X]", "[citation:3][citation:5]")]  # fmt: skip
    assert order == sorted(order)
    assert re.search(r"\d{4}(-\d\d-\d\d|年\d+月\d+日)", turn["content"])
    assert turn["content"].rstrip().endswith(("?", "？", "。"))


def test_the_prompt_of_another_family_has_its_system_text() -> None:
    turns = json.loads(run("prompt", "show", "--model", "deepseek-r1-0528", "--json"))["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert turns[0]["content"].startswith("该助手为DeepSeek-R1")


def test_tables_are_whole_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.cli.options import show_table

    long = "--reasoning-parser " * 20
    monkeypatch.setenv("COLUMNS", "80")
    show_table("Engines", ["engine", "start with"], [["vllm", long.strip()]])
    assert long.strip() in capsys.readouterr().out
