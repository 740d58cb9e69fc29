"""Stored files are named by their hash: every loader must get along without an ending."""

import shutil
from pathlib import Path

import pytest

from pipelines import loaders

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.mark.parametrize("path", sorted(p for p in SAMPLES.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_a_file_without_an_ending_loads_like_the_original(path: Path, tmp_path: Path) -> None:
    blob = tmp_path / "0f3a"
    shutil.copy(path, blob)
    assert list(loaders.load(blob, path.name)) == list(loaders.load(path, path.name))
