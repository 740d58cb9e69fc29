"""The shape of the code: rules that a machine can hold (CONTRIBUTING.md says why)."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "pipelines", "connectors")
LONGEST_FILE = 300
LONGEST_FUNCTION = 50
MOST_FUNCTIONS = 30  # lines that all but a few functions stay under
FEW = 0.05


def sources() -> list[Path]:
    """Our Python files; migrations are generated and left out."""
    return [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")) if "migrations" not in path.parts]


def functions() -> Iterator[tuple[int, str]]:
    """Lines of every function without its docstring, and where it stands."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = node.body[0] if ast.get_docstring(node) is not None else None
                documented = (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc else 0
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - documented
                yield lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def listing(rows: list[tuple[int, str]]) -> str:
    return "\n".join(f"{lines:5d}  {where}" for lines, where in sorted(rows, reverse=True)[:15])


def test_files_are_short() -> None:
    lengths = [(len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(ROOT))) for path in sources()]
    too_long = [row for row in lengths if row[0] > LONGEST_FILE]
    assert not too_long, f"files over {LONGEST_FILE} lines (docstrings count):\n{listing(too_long)}"


def test_functions_are_short() -> None:
    too_long = [row for row in functions() if row[0] > LONGEST_FUNCTION]
    assert not too_long, f"functions over {LONGEST_FUNCTION} lines (docstring left out):\n{listing(too_long)}"


def test_nearly_all_functions_are_very_short() -> None:
    rows = list(functions())
    long = [row for row in rows if row[0] > MOST_FUNCTIONS]
    assert len(long) <= FEW * len(rows), (
        f"{len(long)} of {len(rows)} functions over {MOST_FUNCTIONS} lines:\n{listing(long)}"
    )


def test_every_module_and_public_function_says_what_it_is() -> None:
    silent = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if ast.get_docstring(tree) is None:
            silent.append(str(path.relative_to(ROOT)))
        silent += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
        ]
    assert not silent, "without a docstring:\n" + "\n".join(silent)


@pytest.mark.parametrize("name", PACKAGES)
def test_top_level_names_are_ours_alone(name: str) -> None:
    """A distribution that ships a folder of the same name would overwrite ours in silence."""
    owners = set(importlib.metadata.packages_distributions().get(name, ["deepwell"]))
    assert owners == {"deepwell"}, f"{name} is also shipped by {sorted(owners - {'deepwell'})}"


def test_layers_hold() -> None:
    """services > connectors > pipelines; connectors do not know each other; pipelines name no vendor."""
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rules_of_ruff_that_others_rely_on_are_on() -> None:
    """One place reads the environment, nothing prints, nothing is swallowed, nothing is mocked."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert {"BLE", "T20", "TID", "ERA", "ASYNC", "C90"} <= set(lint["select"])
    banned = lint["flake8-tidy-imports"]["banned-api"]
    assert {"os.environ", "os.getenv", "unittest.mock"} <= set(banned)
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--select", "BLE,T20,TID", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
