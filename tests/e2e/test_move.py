"""A platform of the embedded default, moved to PostgreSQL and a Milvus server, and asked there."""

from pathlib import Path

import pytest

from tests.contract import lite, postgres
from tests.e2e.conftest import cli, start, stop


@pytest.mark.slow
def test_a_moved_platform_answers_as_before(tmp_path: Path) -> None:
    text = "# Leave\n\nFull-time staff have twenty-five days of annual leave.\n"
    (tmp_path / "handbook.md").write_text(text)
    (tmp_path / "travel.md").write_text("# Travel\n\nTrains are booked in second class below two hours.\n")
    before = start(tmp_path / "old")
    try:
        before.cli("add", str(tmp_path / "handbook.md"), str(tmp_path / "travel.md"), "--kb", "staff")
        asked = before.cli("ask", "How many days of annual leave?", "--kb", "staff")
        found = before.cli("search", "annual leave", "--kb", "staff")
        refused = cli("move", "--from", str(before.data_dir), env={"DEEPWELL_INDEX__URL": "http://127.0.0.1:9"})
        assert refused.returncode == 2 and "stop that Deepwell first" in refused.stderr
    finally:
        stop(before)
    with postgres.server() as database, lite.running(tmp_path / "milvus") as milvus:
        url = postgres.new_database(database, "deepwell")
        env = {
            "DEEPWELL_STORE__URL": url,
            "DEEPWELL_INDEX__URL": milvus.url,
            "DEEPWELL_DATA_DIR": str(tmp_path / "new"),
        }
        moved = cli("move", "--from", str(before.data_dir), env=env)
        assert moved.returncode == 0, moved.stderr
        after = start(tmp_path / "new", env=env)
        try:
            assert after.cli("ask", "How many days of annual leave?", "--kb", "staff")["answer"] == asked["answer"]
            hits = after.cli("search", "annual leave", "--kb", "staff")["hits"]
            assert [hit["chunk_id"] for hit in hits] == [hit["chunk_id"] for hit in found["hits"]]
            old_key = {"DEEPWELL_URL": after.url, "DEEPWELL_API_KEY": before.key}
            assert cli("kb", "list", "--json", env=old_key).returncode == 0, "old keys go on working"
            (tmp_path / "handbook.md").write_text(text + "\nPart-time staff have fifteen.\n")
            after.cli("add", str(tmp_path / "handbook.md"), "--kb", "staff")
            again = after.cli("search", "part-time staff", "--kb", "staff")["hits"]
            assert "fifteen" in again[0]["text"]
        finally:
            stop(after)
    back = start(tmp_path / "old")
    try:
        assert back.cli("ask", "How many days of annual leave?", "--kb", "staff")["answer"] == asked["answer"]
    finally:
        stop(back)
