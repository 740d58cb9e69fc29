"""What holds for every fusion, whatever the legs found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fusion import confidence, fuse
from pipelines.lexical import reachable
from pipelines.types import Scored

ids = st.integers(0, 30).map(str)


def leg(scores: st.SearchStrategy[float], coverage: bool) -> st.SearchStrategy[list[Scored]]:
    shares = st.floats(0, 1) if coverage else st.none()
    one = st.builds(lambda i, s, c: Scored(id=i, score=s, coverage=c), ids, scores, shares)
    return st.lists(one, max_size=30, unique_by=lambda each: each.id).map(
        lambda found: sorted(found, key=lambda each: -each.score)
    )


dense_legs = leg(st.floats(-1, 1), coverage=False)
lexical_legs = leg(st.floats(0.01, 80), coverage=True)


@given(dense_legs, lexical_legs)
def test_every_passage_comes_once_best_first_with_scores_in_0_to_1(dense: list[Scored], lexical: list[Scored]) -> None:
    fused = fuse(dense, lexical)
    assert {each.id for each in fused} == {each.id for each in (*dense, *lexical)}
    assert len(fused) == len({each.id for each in fused})
    scores = [each.score for each in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    cosine, words = {e.id: e.score for e in dense}, {e.id: e.score for e in lexical}
    assert all(each.dense == cosine.get(each.id) and each.lexical == words.get(each.id) for each in fused)


@given(dense_legs, lexical_legs)
def test_a_passage_better_in_both_legs_is_never_behind(dense: list[Scored], lexical: list[Scored]) -> None:
    place = {each.id: n for n, each in enumerate(fuse(dense, lexical))}
    cosine, words = {e.id: e.score for e in dense}, {e.id: e.score for e in lexical}
    both = cosine.keys() & words.keys()
    for a in both:
        for b in both:
            if cosine[a] > cosine[b] and words[a] > words[b]:
                assert place[a] < place[b]


@given(dense_legs, lexical_legs)
def test_the_order_of_the_input_does_not_matter(dense: list[Scored], lexical: list[Scored]) -> None:
    assert fuse(dense, lexical) == fuse(dense[::-1], lexical[::-1])


@given(dense_legs.filter(bool))
def test_without_words_the_vectors_decide_alone(dense: list[Scored]) -> None:
    best = max(each.score for each in dense)
    assert fuse(dense, [])[0].dense == best
    silent = [Scored(id="31", score=5.0, coverage=0.0)]
    assert fuse(dense, silent)[0].dense == best


@given(lexical_legs.filter(bool))
def test_without_vectors_the_words_decide_alone(lexical: list[Scored]) -> None:
    assert [each.lexical for each in fuse([], lexical)] == sorted((each.score for each in lexical), reverse=True)


def test_nothing_found_is_nothing() -> None:
    assert fuse([], []) == []


DENSE = [Scored(id=f"d{n}", score=0.88 - n * 0.002) for n in range(50)]


@pytest.mark.parametrize("coverage", [0.02, 0.05, 0.08, 0.34, 0.45, 1.0])
def test_words_are_heard_by_how_much_of_the_question_they_cover(coverage: float) -> None:
    found = [Scored(id="d40", score=9.0, coverage=coverage)]
    place = [each.id for each in fuse(DENSE, found)].index("d40")
    assert (place <= 1) == (coverage >= 0.34)
    assert (place >= 30) == (coverage < 0.1)


@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_confidence_is_in_0_to_1_and_grows_with_coverage(cosines: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= confidence(cosines, low) <= confidence(cosines, high) <= 1


def test_a_question_about_something_else_scores_low() -> None:
    flat = [Scored(id=str(n), score=0.80 - n * 0.0005) for n in range(50)]
    assert fuse(flat, [Scored(id="3", score=2.0, coverage=0.08)])[0].score < 0.4
    peak = [Scored(id="p", score=0.88), *(Scored(id=str(n), score=0.79 - n * 0.0005) for n in range(49))]
    assert fuse(peak, [Scored(id="p", score=12.0, coverage=0.4)])[0].score > 0.8


@pytest.mark.parametrize(
    ("known", "unknown", "expected"),
    [
        ({"leav": 2.0}, ["zebra"], 2 + 9),
        ({"休暇": 2.0}, ["暇制"], 2 + 9),
        ({"e4711": 5.0}, ["部品", "品は"], 5 / 0.5),
        ({"e4711": 5.0, "部品": 2.0}, ["品は"], 5 + 2 + 9),
        ({}, ["部品"], 9),
        ({}, [], 0),
    ],
)
def test_pairs_do_not_count_where_passages_have_another_script(
    known: dict[str, float], unknown: list[str], expected: float
) -> None:
    assert reachable(known, unknown, rare=9.0) == pytest.approx(expected)
