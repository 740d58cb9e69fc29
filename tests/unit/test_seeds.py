"""docs/seeds.md: no row of the articles is forgotten, and what is said to work can be run."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from services.cli import main
from tests import docs_reference
from tests.unit.test_docs import calls, exists

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "seeds.md"
#: article -> ids of its rows
IDS = {
    "0": list(range(1, 30)),
    "1": list(range(30)),
    "2": list(range(1, 24)),
    "3": list(range(1, 34)),
    "4": list(range(1, 58)),
}
STATUSES = {"works", "explained", "corrected", "planned"}
NEEDS = ("(needs make up)", "(needs a model server)", "(needs the network)", "(needs root)")


def rows() -> list[tuple[str, str, str, str]]:
    """Row id, what it is about, status, how."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d-\d", line):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 4, line
            found.append((cells[0].strip(), cells[1], cells[2], cells[3].rstrip("| ")))
    return found


def test_no_row_is_forgotten() -> None:
    expected = [f"{article}-{number}" for article, numbers in IDS.items() for number in numbers]
    assert len(expected) == 172
    assert [row[0] for row in rows()] == expected


def test_every_row_has_a_status_and_says_how() -> None:
    for name, about, status, how in rows():
        assert status in STATUSES, f"{name}: {status}"
        assert len(about) >= 8 and len(how) >= 8, name
        if status == "works":
            assert "`" in how or "](" in how, f"{name} is said to work and nothing shows it"
        if status == "explained":
            assert "](" in how or len(how.split()) >= 4, f"{name} is said to be explained, and is not"


def test_nothing_that_is_not_there_is_said_to_work() -> None:
    """Fine-tuning, several machines' start and the web interface: whole parts of the list that do not exist."""
    status = {name: status for name, _, status, _ in rows()}
    assert {status[f"1-{n}"] for n in range(5, 25)} == {"planned"}
    assert {status[name] for name in ("0-11", "0-24", "2-4", "3-16", "4-56")} == {"planned"}


def commands() -> list[tuple[str, str, str]]:
    """Row, command, and what stands behind it."""
    found = []
    for name, _, _, how in rows():
        for match in re.finditer(r"`(deepwell [^`]+)`( \([^)]*\))?", how):
            found.append((name, match[1], (match[2] or "").strip()))
    return found


def test_every_command_exists() -> None:
    known = dict(docs_reference.commands())
    groups = {name.rpartition(" ")[0] for name in known} | {"deepwell"}
    assert len(commands()) > 50
    wrong = [
        f"{name}: {line}" for name, line, _ in commands() for call in calls(line) if not exists(call, known, groups)
    ]
    assert not wrong, wrong


def test_every_test_and_make_target_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert named and all((ROOT / path).exists() for path in named)
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets


RUN_HERE = ("deepwell plan", "deepwell models show", "deepwell models list")
RUNNABLE = sorted({(line, note) for _, line, note in commands() if line.startswith(RUN_HERE)})


def test_most_commands_run_here() -> None:
    """What is not run by the next test needs something, or is run by another test."""
    rest = {(line, note) for _, line, note in commands()} - set(RUNNABLE)
    unmarked = {line for line, note in rest if note not in NEEDS}
    assert unmarked <= {"deepwell doctor", "deepwell doctor --fix", "deepwell models import"}, unmarked
    assert len(RUNNABLE) > 20


@pytest.mark.parametrize(("line", "note"), RUNNABLE)
def test_commands_run(
    line: str, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)
    more = ["--data-dir", str(tmp_path)] if words[1] == "models" else []
    monkeypatch.setattr(sys, "argv", [*words, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    if note == "(refused)":
        assert ended.value.code == 2
        assert re.search(r"work instead: |: use --dtype", err), err
    else:
        assert not ended.value.code, err
        assert len(out) > 100
