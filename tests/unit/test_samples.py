"""The samples are small, readable by our own loaders, and hold what the questions to them expect."""

import json
import re
from pathlib import Path

import pytest

from pipelines import loaders
from pipelines.types import Page

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
DOCUMENTS = sorted(path for path in SAMPLES.rglob("*") if path.is_file())
QUESTIONS = [json.loads(line) for line in (ROOT / "tests/e2e/questions.jsonl").read_text(encoding="utf-8").splitlines()]


def squeezed(text: str) -> str:
    """Without white space: a PDF's line ends may stand inside a phrase."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def pages() -> dict[str, list[Page]]:
    return {path.relative_to(SAMPLES).as_posix(): list(loaders.load(path)) for path in DOCUMENTS}


def test_samples_are_few_small_and_of_every_kind() -> None:
    assert 8 <= len(DOCUMENTS) <= 12
    assert sum(path.stat().st_size for path in DOCUMENTS) < 1 << 20
    kinds = {path.suffix for path in DOCUMENTS}
    assert {".pdf", ".docx", ".md", ".html", ".txt", ".csv", ".xlsx", ".pptx"} <= kinds
    assert {path.parent.name for path in DOCUMENTS} == {"en", "ja", "zh"}


@pytest.mark.parametrize("language", ["en", "ja", "zh"])
def test_there_are_eight_questions_in_each_language(language: str) -> None:
    assert len([question for question in QUESTIONS if question["language"] == language]) == 8


@pytest.mark.parametrize("question", QUESTIONS, ids=[question["question"] for question in QUESTIONS])
def test_the_expected_phrase_stands_on_the_expected_page(
    question: dict[str, str], pages: dict[str, list[Page]]
) -> None:
    phrase = squeezed(question["phrase"])
    holding = [page.number for page in pages[question["document"]] if phrase in squeezed(page.text)]
    assert holding == [question["page"]], f"found on pages {holding}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_no_character_was_lost(path: Path, pages: dict[str, list[Page]]) -> None:
    text = "".join(page.text for page in pages[path.relative_to(SAMPLES).as_posix()])
    assert len(text) > 500
    assert not re.search("[\ufffd\ufffe\uffff\u0000-\u0008\ue000-\uf8ff]", text)
