"""What a sync plans to do."""

from collections.abc import Sequence
from typing import Any

import pytest

from connectors.source import Item, Unlisted
from pipelines.errors import Conflict, TooLarge, UnsupportedDocument
from services.comparing import Comparison, Plan, may_delete, worth_fetching
from services.store.sources import Known, LeftOut


def known(version: str, error_code: str = "") -> Known:
    return Known(document_id="d", name="n", version=version, sha256="s", job_id="j", error_code=error_code)


def planned(seen: Sequence[Item | Unlisted], **before: Any) -> Plan:
    comparison = Comparison(before.pop("known", {}), before.pop("left_out", {}), before)
    for one in seen:
        comparison.see(one)
    return comparison.plan()


def item(external_id: str, version: str = "1") -> Item:
    return Item(external_id=external_id, name=external_id, version=version)


def test_equal_versions_are_not_fetched_and_no_version_always_is() -> None:
    plan = planned(
        [item("same"), item("other", "2"), item("unknown", ""), item("new"), item("new")],
        known={"same": known("1"), "other": known("1"), "unknown": known(""), "gone": known("1")},
    )
    assert [one.external_id for one in plan.fetch] == ["other", "unknown", "new"]
    assert plan.gone == ["gone"]
    assert plan.counts == {"listed": 4, "unchanged": 1}


def test_what_failed_for_a_passing_reason_is_fetched_again() -> None:
    reasons = {"away": "model_unavailable", "full": "storage_full", "bad": "unreadable_document"}
    before = {key: known("1", code) for key, code in reasons.items()}
    assert [one.external_id for one in planned([item(key) for key in before], known=before).fetch] == ["away", "full"]


def test_what_was_left_out_is_reported_until_it_changes_or_goes() -> None:
    reasons = {key: LeftOut(version="1", code="too_large", error=f"{key} is too large") for key in ("a", "b", "c")}
    plan = planned([item("a"), item("b", "2")], left_out=reasons)
    assert [one.external_id for one in plan.fetch] == ["b"]
    assert (plan.counts["failed"], plan.forget) == (1, ["c"])
    assert plan.problems == [{"external_id": "a", "code": "too_large", "error": "a is too large"}]


def test_what_could_not_be_looked_into_stays() -> None:
    plan = planned([Unlisted(prefix="in/", reason="in cannot be read")], known={"in/a": known("1"), "b": known("1")})
    assert plan.gone == ["b"]
    may_delete(plan, plan.gone, "/srv", allow_empty=False)


def test_everything_at_once_is_not_deleted_without_a_word(tmp_path: Any) -> None:
    plan = planned([], known={"a": known("1")})
    with pytest.raises(Conflict, match="suddenly has nothing any more, and 1 documents come from it"):
        may_delete(plan, plan.gone, "/srv", allow_empty=False)
    may_delete(plan, plan.gone, "/srv", allow_empty=True)
    found_gone = planned([item("a", "")], known={"a": known("1")})  # listed, but a 404 when it was fetched
    with pytest.raises(Conflict):
        may_delete(found_gone, ["a"], "https://example.org", allow_empty=False)
    found_gone.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == found_gone


def test_patterns_fit_the_path_or_the_name() -> None:
    seen = [item(key) for key in ("a.pdf", "x/b.pdf", "x/c.txt", "drafts/d.pdf")]
    plan = planned(seen, include="*.pdf, x/*", exclude="drafts/*,b.*")
    assert [one.external_id for one in plan.fetch] == ["a.pdf", "x/c.txt"]


def test_what_nobody_reads_is_not_fetched() -> None:
    for name in ("film.mp4", "song.mp3", "letters.woff2"):
        with pytest.raises(UnsupportedDocument, match="Deepwell reads text"):
            worth_fetching(Item(external_id=name, name=name), 1 << 20)
    with pytest.raises(TooLarge, match="raise setting server"):
        worth_fetching(Item(external_id="a.txt", name="a.txt", size=(1 << 20) + 1), 1 << 20)
    worth_fetching(Item(external_id="a.txt", name="a.txt"), 1 << 20)
