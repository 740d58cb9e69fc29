"""The five articles that Deepwell began with, where they lie beside the checkout: each question finds its own first."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Running

QUESTIONS = [
    ("DeepSeek-R1のFine-tuningで使った学習率とエポック数は？", {"article-1-recovered.txt", "article-1.txt"}),
    ("下载 DeepSeek-R1 蒸馏模型之前怎样根据显存大小选择模型版本？", {"article-4.txt"}),
    ("Why does DeepSeek V3 use multi-head latent attention and MoE?", {"article-3.txt"}),
]


@pytest.fixture(scope="module")
def articles(deepwell: Running, shared: Path) -> Running:
    """The platform with the articles loaded."""
    added = deepwell.cli("add", str(shared / "reference" / "seeds"), "--kb", "articles")["documents"]
    assert [document["state"] for document in added] == ["succeeded"] * 6
    return deepwell


@pytest.mark.parametrize(("question", "right"), QUESTIONS)
def test_a_question_finds_its_article_first(articles: Running, question: str, right: set[str]) -> None:
    assert articles.cli("search", question, "--kb", "articles")["hits"][0]["document"] in right


def test_pages_of_a_filing_are_kept(deepwell: Running, shared: Path) -> None:
    path = shared / "data" / "financebench" / "ULTABEAUTY_2023Q4_EARNINGS.pdf"
    assert deepwell.cli("add", str(path), "--kb", "filings")["documents"][0]["state"] == "succeeded"
    hits = deepwell.cli("search", "net sales for the fourth quarter", "--kb", "filings")["hits"]
    assert all(isinstance(hit["page"], int) and hit["page"] >= 1 for hit in hits)
    assert len({hit["page"] for hit in hits}) > 1
