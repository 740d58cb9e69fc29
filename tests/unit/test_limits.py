"""Limits of a key: a burst passes, a constant overload does not, one key's use is not another's."""

import pytest

from pipelines.errors import TooManyRequests
from services.limits import KeyLimits, Limits


def test_a_minute_of_requests_passes_at_once_and_then_at_the_pace_allowed() -> None:
    limits, allowed = Limits(), KeyLimits(requests_per_minute=60)
    for _ in range(60):
        limits.request("a", allowed, now=100.0)
    with pytest.raises(TooManyRequests) as refused:
        limits.request("a", allowed, now=100.0)
    assert refused.value.retry_after == pytest.approx(1.0)
    limits.request("b", allowed, now=100.0)
    with pytest.raises(TooManyRequests) as refused:
        limits.request("a", allowed, now=100.5)
    assert refused.value.retry_after == pytest.approx(0.5)
    limits.request("a", allowed, now=101.0)
    with pytest.raises(TooManyRequests):
        limits.request("a", allowed, now=101.1)


def test_an_idle_key_saves_no_more_than_a_minute() -> None:
    limits, allowed = Limits(), KeyLimits(requests_per_minute=2)
    limits.request("a", allowed, now=0.0)
    for _ in range(2):
        limits.request("a", allowed, now=10_000.0)
    with pytest.raises(TooManyRequests):
        limits.request("a", allowed, now=10_000.0)


def test_no_limit() -> None:
    limits = Limits()
    for _ in range(10_000):
        limits.request("a", KeyLimits())
    with limits.answer("a", KeyLimits()), limits.answer("a", KeyLimits()):
        pass


def test_answers_at_the_same_time_are_counted_and_given_back() -> None:
    limits, allowed = Limits(), KeyLimits(concurrent_answers=1)
    with limits.answer("a", allowed):
        with pytest.raises(TooManyRequests, match="1 answers in progress"), limits.answer("a", allowed):
            raise AssertionError("a second answer was let in")
        with limits.answer("b", allowed):
            pass
    with pytest.raises(ValueError, match="broken"), limits.answer("a", allowed):
        raise ValueError("broken")
    with limits.answer("a", allowed):
        pass
