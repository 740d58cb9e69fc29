"""The words are held to the code: reference, links, commands, variables, and the three READMEs to each other."""

import ast
import itertools
import re
import subprocess
from pathlib import Path

import pytest

from pipelines import errors
from services.settings import PREFIX, Settings
from tests import docs_reference

ROOT = Path(__file__).parents[2]
READMES = [ROOT / name for name in ("README.md", "README.ja.md", "README.zh.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: what an example may name that is no setting: the file of settings, and variables of the tests
OTHER_VARIABLES = {f"{PREFIX}CONFIG"}


def repository_files() -> list[Path]:
    """Files that are or could be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def markdown_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".md"]


def shell_blocks(text: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in ("sh", "bash", "console")]


def commands_in(text: str) -> list[str]:
    """Lines of the shell blocks without comments."""
    lines = [line.split("  #")[0].rstrip() for block in shell_blocks(text) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", docs_reference.PAGES)
def test_reference_is_what_the_code_says(name: str) -> None:
    path = docs_reference.REFERENCE / name
    committed = path.read_text(encoding="utf-8") if path.exists() else ""
    stale = f"docs/reference/{name} is stale: run `.venv/bin/python -m tests.docs_reference` and commit the result"
    assert committed == docs_reference.PAGES[name](), stale


def test_every_setting_is_documented_with_its_meaning() -> None:
    page = (docs_reference.REFERENCE / "settings.md").read_text(encoding="utf-8")
    for name, field in docs_reference.fields(Settings):
        assert f"`{docs_reference.variable(name)}`" in page, name
        assert field.description, f"setting {name} has no description"


def test_every_error_is_documented() -> None:
    page = (docs_reference.REFERENCE / "errors.md").read_text(encoding="utf-8")
    for kind in docs_reference.error_classes():
        assert f"`{kind.__name__}`" in page
        assert kind.__name__ in (errors.__doc__ or ""), (
            f"{kind.__name__} is missing in the tree at the top of errors.py"
        )


def error_codes() -> dict[str, str]:
    """Code of every error class in the sources, by the name of the class; of its base where it has none of its own."""
    known = {kind.__name__: kind.code for kind in docs_reference.error_classes()}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in repository_files() if is_source(path)]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # a class may come before its base
        for node in classes:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in known]
            own = re.findall(r"^    code = '(\w+)'", ast.unparse(node), re.MULTILINE)
            if bases and node.name not in known:
                known[node.name] = own[0] if own else known[bases[0]]
    return known


def is_source(path: Path) -> bool:
    return path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("pipelines", "connectors", "services")


def test_each_error_has_its_cause_and_fix_in_the_troubleshooting_page() -> None:
    page = (ROOT / "docs/guides/troubleshooting.md").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE))
    codes = error_codes()
    assert codes["RecallTooLow"] == "recall_too_low", "classes outside of errors.py are found, too"
    missing = {name: code for name, code in codes.items() if code not in explained}
    assert not missing, f"no cause and fix in docs/guides/troubleshooting.md for {missing}"


def test_every_command_is_documented() -> None:
    page = (docs_reference.REFERENCE / "cli.md").read_text(encoding="utf-8")
    commands = dict(docs_reference.commands())
    assert {"deepwell up", "deepwell kb create", "deepwell add", "deepwell ask"} <= set(commands)
    for name, command in commands.items():
        assert f"## {name}\n" in page, f"`{name}` is not documented"
        assert command.help, f"`{name}` has no help"


def test_every_call_is_documented() -> None:
    page = (docs_reference.REFERENCE / "rest.md").read_text(encoding="utf-8")
    paths = docs_reference.openapi()["paths"]
    assert {"/healthz", "/readyz", "/v1/models", "/v1/chat/completions"} <= set(paths)
    for path, methods in paths.items():
        for method, call in methods.items():
            assert f"### {method.upper()} {path}" in page
            assert call.get("description") or call.get("summary"), f"{method} {path} says nothing"


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for line in FENCE.sub("", path.read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            text = re.sub(r"[`*]|\[|\]\([^)]*\)", "", line.lstrip("#").strip().lower())
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def test_relative_links_lead_somewhere() -> None:
    broken = []
    for page in markdown_files():
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            linked = (page.parent / name).resolve() if name else page
            if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken, "broken links:\n" + "\n".join(broken)


def test_every_page_of_docs_is_reachable_from_its_index() -> None:
    seen, todo = set(), [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        todo += [(page.parent / target).resolve() for target in targets if not re.match(r"[a-z]+:", target)]
    lost = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page not in seen]
    assert not lost, "no way leads from docs/index.md to:\n" + "\n".join(lost)


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in markdown_files():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ((?:[a-z][\w-]* ?)+)`", text))
        named |= {line[5:].split("#")[0] for line in commands_in(text) if line.startswith("make ")}
        words = {word for words in named for word in words.split() if "=" not in word}
        assert words <= targets, f"{page.relative_to(ROOT)} names make targets that are not there: {words - targets}"


def test_deepwell_commands_and_options_exist() -> None:
    known = dict(docs_reference.commands())
    groups = {name.rpartition(" ")[0] for name in known} | {"deepwell"}
    wrong = []
    for page in markdown_files():
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"`((?:\.venv/bin/)?deepwell [^`\n]+)`", FENCE.sub("", text)) + commands_in(text)
        for line in lines:
            wrong += [f"{page.relative_to(ROOT)}: {line}" for call in calls(line) if not exists(call, known, groups)]
    assert not wrong, "commands that do not exist:\n" + "\n".join(wrong)


def calls(line: str) -> list[list[str]]:
    """The words of each `deepwell` call in a shell line; `a|b` stands for two calls."""
    found: list[list[str]] = []
    for part in re.findall(r"(?:^|[\s/])(deepwell (?:[^|&;]|\|(?=\w))*)", line):
        found += [list(words) for words in itertools.product(*(word.split("|") for word in part.split()))]
    return found


def exists(words: list[str], known: dict[str, object], groups: set[str]) -> bool:
    name = words[0]
    rest = words[1:]
    while rest and name in groups and name not in known:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name in {"deepwell --help", "deepwell …"}:
        return True
    options = {option for p in getattr(known.get(name), "params", []) for option in [*p.opts, *p.secondary_opts]}
    used = {word.split("=")[0].strip("[]") for word in rest if word.strip("[").startswith("-") and word.strip("[]-")}
    return (name in known or name in groups) and used <= options | {"--help"}


def test_variables_named_in_the_docs_are_settings() -> None:
    known = {docs_reference.variable(name) for name, _ in docs_reference.fields(Settings)} | OTHER_VARIABLES
    known |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    for page in [*markdown_files(), *(ROOT / "samples").rglob("*.md")]:
        named = set(re.findall(rf"{PREFIX}[A-Z][A-Z0-9_]+", page.read_text(encoding="utf-8")))
        wrong = {
            name for name in named if name.removesuffix("_FILE") not in known and not name.startswith(f"{PREFIX}TEST_")
        }
        assert not wrong, f"{page.relative_to(ROOT)} names settings that are not there: {wrong}"


def messages_of_the_code() -> list[str]:
    """Every string of the code; what is filled in at run time reads `…`."""
    found = [(ROOT / "Makefile").read_text(encoding="utf-8")]
    for package in ("services", "pipelines", "connectors"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_messages_in_the_troubleshooting_guide_are_those_of_the_code() -> None:
    page = (ROOT / "docs/guides/troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+ [^`]+)`", cell)]
    assert len(quoted) > 20
    known = messages_of_the_code()
    unknown = [text for text in quoted if not any(re.search(pattern(text), message) for message in known)]
    assert not unknown, "nothing in the code says:\n" + "\n".join(unknown)


def pattern(quoted: str) -> str:
    return ".*".join(re.escape(part) for part in quoted.split("…"))


def test_shell_examples_can_be_pasted() -> None:
    """No curly quotes, no angle brackets to replace, and bash can parse each block."""
    for page in markdown_files():
        for block in shell_blocks(page.read_text(encoding="utf-8")):
            where = f"{page.relative_to(ROOT)}:\n{block}"
            assert not re.search("[\u201c\u201d\u2018\u2019]", block), f"curly quotes in {where}"
            assert not re.search(r"<[a-z][\w-]*>", block), (
                f"a placeholder that the shell reads as redirection in {where}"
            )
            parsed = subprocess.run(
                ["bash", "-n"], input=block, capture_output=True, text=True, timeout=60, check=False
            )
            assert parsed.returncode == 0, f"{parsed.stderr} in {where}"


def test_the_three_readmes_say_the_same() -> None:
    texts = [path.read_text(encoding="utf-8") for path in READMES]
    assert len({tuple(commands_in(text)) for text in texts}) == 1, "the shell blocks of the READMEs differ"
    assert len({text.count("\n## ") for text in texts}) == 1, "the READMEs have different sections"
    links = [sorted(re.findall(r"\]\((docs/[^)#]+|[A-Z]+)\)", text)) for text in texts]
    assert links[0] == links[1] == links[2], "the READMEs link to different pages"
    tables = [re.findall(r"^\| `deepwell ([^`]+)`", text, re.MULTILINE) for text in texts]
    assert tables[0], "the command table is missing"
    assert tables[0] == tables[1] == tables[2], "the command tables of the READMEs differ"
    outputs = [re.findall(r"<!-- output:make-up -->\n(.*?)<!-- /output -->", text, re.DOTALL) for text in texts]
    assert len(outputs[0]) == 1, "the output of `make up` is not marked"
    assert outputs[0] == outputs[1] == outputs[2], "the shown output of `make up` differs"


def test_the_first_screen_shows_the_two_commands() -> None:
    for path in READMES:
        first_screen = "\n".join(path.read_text(encoding="utf-8").splitlines()[:60])
        assert {"make up", "make test"} <= set(first_screen.splitlines()), path.name


def test_nothing_of_a_workplace_is_committed() -> None:
    """Registry hosts and paths of one machine belong into that machine's settings, never into the project."""
    dot = re.escape(".")
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("pypi", "python"),
             ("debian", "org"), ("tsinghua", "edu"), ("proxy.golang", "org"), ("yarnpkg", "com")]  # fmt: skip
    patterns = [rf"\b{re.escape(name)}{dot}{ending}\b" for name, ending in hosts]
    patterns += [r"--(?:extra-)?index-url\s+\S*://", r"(?<![\w.])/(?:work|root|home/\w+|tmp)/\w"]
    unwanted = re.compile("|".join(patterns))
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), 1)
        found += [f"{path.relative_to(ROOT)}:{n}: {line.strip()[:120]}" for n, line in lines if unwanted.search(line)]
    assert not found, "names a registry or a path of one machine:\n" + "\n".join(found)
