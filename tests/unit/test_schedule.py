"""When a source is looked at again."""

from datetime import datetime

import pytest

from pipelines.errors import BadRequest
from services.schedule import check_schedule, next_due


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("15m", "15m"),
        (" 6h ", "6h"),
        ("1d", "1d"),
        ("30s", "30s"),
        ("manual", ""),
        ("", ""),
        ("0  3 * * 1", "0 3 * * 1"),
    ],
)
def test_schedules_are_kept_in_one_form(given: str, kept: str) -> None:
    assert check_schedule(given) == kept


@pytest.mark.parametrize("given", ["5s", "0m", "1w", "now and then", "61 3 * * *", "* * * *", "* * * * * *", "@daily"])
def test_what_is_no_schedule_is_refused(given: str) -> None:
    with pytest.raises(BadRequest, match="schedule"):
        check_schedule(given)


def test_the_next_time() -> None:
    begin = datetime(2026, 11, 25, 20, 30).astimezone().timestamp()
    assert next_due("", begin) is None
    assert next_due("15m", begin) == begin + 900
    found = next_due("0 3 * * *", begin)
    assert found is not None and datetime.fromtimestamp(found).isoformat() == "2026-11-26T03:00:00"
