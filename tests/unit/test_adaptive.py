"""Decisive evidence, by the scores of both legs."""

import pytest

from pipelines.adaptive import decisive
from pipelines.types import Hit
from tests.unit.small_rag import chunk


def hits(*legs: tuple[float | None, float | None]) -> list[Hit]:
    return [Hit(chunk=chunk(n, "x"), score=1 / n, dense=d, lexical=w) for n, (d, w) in enumerate(legs, 1)]


@pytest.mark.parametrize(
    ("legs", "is_decisive"),
    [
        ([(0.90, 16.0), (0.86, 9.0), (0.85, None)], True),
        ([(0.90, 16.0), (0.86, 9.0), (0.85, 15.0)], False),  # another passage has as many of the words
        ([(0.90, 16.0), (0.89, 9.0)], False),  # another one means as much
        ([(0.86, 16.0), (0.90, 2.0)], False),  # the legs disagree
        ([(0.90, None), (0.80, 9.0)], False),
        ([(None, 16.0), (0.80, 9.0)], False),
        ([(0.90, 16.0), (0.80, None)], False),
        ([(0.90, 16.0)], False),
        ([], False),
    ],
)
def test_decisive(legs: list[tuple[float | None, float | None]], is_decisive: bool) -> None:
    assert decisive(hits(*legs)) is is_decisive
