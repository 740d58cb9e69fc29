"""Writes `docs/reference/` from the code: `python -m tests.docs_reference`. A unit test fails when it is stale."""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import SecretStr

from pipelines import errors
from services.sections import Section
from services.settings import PREFIX, Settings

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by `python -m tests.docs_reference`. Change the code, not this page. -->"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; bars inside cells are escaped, line ends become spaces."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


# -- settings ------------------------------------------------------------------------------------------------------


def fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by dotted name, with its pydantic field."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper().replace(".", "__")


def settings_page() -> str:
    """One table for each section."""
    intro = (
        "Order of precedence: command line, environment, `deepwell.toml` in the working directory (or the file that "
        f"`{PREFIX}CONFIG` names), default. In the file, the part before the dot is a table:\n\n"
        '```toml\ndata_dir = "deepwell-data"\n\n[server]\nport = 8100\n```\n\n'
        f"A secret may be kept in a file: `{PREFIX}STORE__PASSWORD_FILE=PATH` is the content of that file, and so for "
        "every variable. Unknown names are refused. `deepwell doctor` prints what is in force and where it came from."
    )
    parts = [NOTE, "# Settings", intro]
    for section, model in sections().items():
        rows = []
        for name, field in fields(model, f"{section}." if section else ""):
            if section or "." not in name:
                rows.append((f"`{name}`", f"`{variable(name)}`", default(field), field.description or ""))
        title = f"## {section}\n\n{inspect.getdoc(model)}" if section else "## General"
        parts.append(f"{title}\n\n" + table(("setting", "environment", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def sections() -> dict[str, type[Section]]:
    """The settings without a section first, then each section."""
    found: dict[str, type[Section]] = {"": Settings}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found


def default(field: Any) -> str:
    """A default as it would be written in the environment."""
    value = field.default
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return f"`{text}`" if text else "empty"


# -- errors --------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.RagError]]:
    """Every error, in the order of the file."""
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, errors.RagError)]


def errors_page() -> str:
    """The tree and what each error means on the wire."""
    from services.cli import exit_code

    tree = inspect.getdoc(errors) or ""
    rows = [
        (
            f"`{kind.__name__}`",
            str(kind.status),
            f"`{kind.code}`",
            "yes" if kind.retryable else "no",
            str(exit_code(kind("example"))),
            inspect.getdoc(kind) or "",
        )
        for kind in error_classes()
    ]
    wire = (
        "An error is answered with its status and this body, on our own paths and on OpenAI's alike; paths of other "
        "protocols answer in the shape their clients read:\n\n"
        '```json\n{"error": {"message": "what happened and what to do", "type": "invalid_request_error", '
        '"param": null, "code": "not_found"}}\n```\n\n'
        "`type` is `server_error` from status 500 upwards. *Tried again* says what an ingestion job does: `yes` means "
        "the step is repeated with growing pauses, `no` means the job fails at once with this message. *Exit code* is "
        "what the command line ends with."
    )
    head = ("error", "status", "code", "tried again", "exit code", "meaning")
    return "\n\n".join([NOTE, "# Errors", f"```\n{tree}\n```", wire, table(head, rows)]) + "\n"


# -- command line --------------------------------------------------------------------------------------------------


def commands(command: Any = None, path: str = "deepwell") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, groups left out."""
    if command is None:
        from services.cli import app

        command = typer.main.get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        yield from commands(child, f"{path} {name}")


def cli_page() -> str:
    """One section for each command."""
    import services.cli

    codes = (inspect.getdoc(services.cli) or "").split("\n\n")[0].removeprefix("The command `deepwell`.").strip()
    parts = [NOTE, "# Command line", f"{codes} `--json` prints one JSON object with a stable shape on standard output."]
    parts += [f"## {path}\n\n{describe(path, command)}" for path, command in commands()]
    return "\n\n".join(parts) + "\n"


def describe(path: str, command: Any) -> str:
    """Help, usage line and parameters of one command."""
    context = click.Context(command, info_name=path)
    pieces = " ".join([path, *command.collect_usage_pieces(context)])
    usage = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), pieces)
    parts = [inspect.cleandoc(command.help or "").split("\f")[0].strip(), f"```\n{usage}\n```"]
    rows = []
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            names = [(parameter.metavar or parameter.name).upper()]
        if "--help" not in names:
            known = None if parameter.default is ... or callable(parameter.default) else parameter.default
            shown = "" if known in (None, "", (), []) or isinstance(known, bool) else f" Default: `{known}`."
            rows.append((" ".join(f"`{name}`" for name in names), (getattr(parameter, "help", "") or "") + shown))
    return "\n\n".join([*parts, table(("parameter", "meaning"), rows)] if rows else parts)


# -- REST ----------------------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the service; nothing is started for it."""
    from services.app import create_app

    return create_app(Settings()).openapi()


def rest_page() -> str:
    """One section for each tag, one entry for each call."""
    spec = openapi()
    intro = (
        "The machine-readable form is [openapi.json](openapi.json); a running service shows it at `/docs`. Send the "
        "key as `Authorization: Bearer KEY`. Errors are described in [errors](errors.md)."
    )
    tags: dict[str, list[str]] = {}
    for path, methods in sorted(spec["paths"].items()):
        for method, call in methods.items():
            tag = (call.get("tags") or ["other"])[0]
            tags.setdefault(tag, []).append(describe_call(spec, path, method, call))
    parts = [f"## {tag}\n\n" + "\n\n".join(calls) for tag, calls in tags.items()]
    return "\n\n".join([NOTE, "# REST API", intro, *parts]) + "\n"


def describe_call(spec: dict[str, Any], path: str, method: str, call: dict[str, Any]) -> str:
    """Heading, sentence, parameters, body and answers of one call."""
    parts = [f"### {method.upper()} {path}"]
    if call.get("description") or call.get("summary"):
        parts.append(call.get("description") or call["summary"])
    rows: list[tuple[str, ...]] = [
        (f"`{p['name']}`", p["in"], kind(p.get("schema", {})), p.get("description", ""))
        for p in call.get("parameters", [])
    ]
    for content in call.get("requestBody", {}).get("content", {}).values():
        rows += properties(spec, content.get("schema", {}))
    if rows:
        parts.append(table(("name", "in", "type", "meaning"), rows))
    answers = [
        (status, answer_kind(answer), answer["description"]) for status, answer in sorted(call["responses"].items())
    ]
    parts.append(table(("status", "body", "meaning"), answers))
    return "\n\n".join(parts)


def properties(spec: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Fields of a body, one row each."""
    if "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = schema.get("required", [])
    return [
        (f"`{name}`" + (" *" if name in required else ""), "body", kind(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]


def kind(schema: dict[str, Any]) -> str:
    """The type of a value in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def answer_kind(answer: dict[str, Any]) -> str:
    """The body of an answer in a few words."""
    content = answer.get("content", {})
    return ", ".join(f"{kind(c.get('schema', {}))} ({media})" for media, c in content.items()) or "none"


def snapshot() -> str:
    """The OpenAPI document as it is committed."""
    return json.dumps(openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "cli.md": cli_page,
    "rest.md": rest_page,
    "openapi.json": snapshot,
}


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
