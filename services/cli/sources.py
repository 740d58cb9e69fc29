"""`deepwell source add|list|status|sync|change|rm`: documents that come by themselves."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, Kb, show_json, show_table

if TYPE_CHECKING:
    from services.cli.client import Api

app = typer.Typer(help="Folders, web sites, buckets and repositories that are kept in step.", no_args_is_help=True)
Json = dict[str, Any]
Source = Annotated[str, typer.Argument(help="Id or name of the source.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until every document is searchable, or has failed.")]
Schedule = Annotated[
    str | None, typer.Option("--schedule", help="15m, 6h, 1d, a cron line such as '0 3 * * *', or manual.")
]
Secret = Annotated[
    list[str] | None,
    typer.Option("--secret", help="NAME asks for it; NAME=FILE reads it from a file. Never shown again."),
]
UNFINISHED = ("queued", "running")


@app.command("add")
def add(
    kind: Annotated[str, typer.Argument(help="folder, web, sitemap, s3, git or push.")],
    location: Annotated[list[str] | None, typer.Argument(help="Folder, addresses, bucket or repository.")] = None,
    kb: Kb = "default",
    name: Annotated[str, typer.Option("--name", help="What it is called; its location if left out.")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE: prefix, include, exclude, branch, …")
    ] = None,
    secret: Secret = None,
    schedule: Schedule = None,
    watch: Annotated[bool | None, typer.Option("--watch/--no-watch", help="See changes in a folder at once.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add a source to a knowledge base, which is made if it is not there yet, and begin its first sync."""
    from services.cli.client import Api

    api = Api(data_dir)
    api.ensure_knowledge_base(kb)
    body: Json = {
        "kind": kind, "location": _location(kind, location or [], data_dir), "knowledge_base": kb, "name": name,
        "options": dict(_pair(one) for one in option or []), "credentials": _secrets(secret or []),
        "schedule": schedule, "watch": watch,
    }  # fmt: skip
    made = api.call("POST", "/v1/sources", json=body)
    _finish(api, made, wait, as_json)


def _location(kind: str, words: list[str], data_dir: Path | None) -> str:
    """A folder of this machine becomes a whole path, and is allowed: whoever can write the data directory may."""
    first = Path(words[0]).expanduser() if len(words) == 1 else None
    if first is None or not (kind == "folder" or (kind == "git" and first.is_dir())):
        return " ".join(words)
    from services.settings import load_settings
    from services.sources import allow_folder

    settings = load_settings({"data_dir": data_dir})
    if not settings.url and first.is_dir() and settings.data_dir.is_dir():
        allow_folder(settings.data_dir, first.resolve())
    return str(first.absolute())


def _pair(text: str) -> tuple[str, str]:
    from pipelines.errors import BadRequest

    name, equals, value = text.partition("=")
    if not equals:
        raise BadRequest(f"--option {text}: say NAME=VALUE")
    return name, value


def _secrets(wanted: list[str]) -> dict[str, str]:
    from pipelines.errors import BadRequest

    found = {}
    for one in wanted:
        name, equals, file = one.partition("=")
        try:
            found[name] = (
                Path(file).expanduser().read_text(encoding="utf-8").strip()
                if equals
                else typer.prompt(name, hide_input=True, err=True)
            )
        except OSError as error:
            raise BadRequest(f"--secret {name}={file}: the file cannot be read ({error.strerror})") from None
    return found


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the sources with their last syncs."""
    from services.cli.client import Api

    found = Api(data_dir).call("GET", "/v1/sources")
    if as_json:
        show_json(found)
    else:
        rows: list[list[object]] = [
            [s["name"], s["kind"], s["knowledge_base"], s["state"] or "never", sum(s["documents"].values()), s["ended"]]
            for s in found["sources"]
        ]
        show_table("Sources", ["name", "kind", "knowledge base", "last sync", "documents", "ended"], rows)


@app.command("status")
def status(source: Source, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show a source: its last sync, its documents by state, and what was left out and why."""
    from services.cli.client import Api

    api = Api(data_dir)
    _show(api.call("GET", _path(source)), as_json)


@app.command("sync")
def sync(
    source: Source,
    wait: Wait = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Delete documents even if the source has nothing any more.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Look now what has changed at a source. Exit code 3 if something of it has failed."""
    from services.cli.client import Api

    api = Api(data_dir)
    found = api.call("POST", f"{_path(source)}/sync", json={"allow_empty": allow_empty})
    _finish(api, found, wait, as_json)


@app.command("change")
def change(
    source: Source,
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    schedule: Schedule = None,
    watch: Annotated[bool | None, typer.Option("--watch/--no-watch", help="See changes in a folder at once.")] = None,
    secret: Secret = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Change the name, the schedule or the secrets of a source."""
    from services.cli.client import Api

    body: Json = {"name": name, "schedule": schedule, "watch": watch}
    if secret:
        body["credentials"] = _secrets(secret)
    _show(Api(data_dir).call("PATCH", _path(source), json=body), as_json)


@app.command("rm")
def rm(
    source: Source,
    keep_documents: Annotated[
        bool, typer.Option("--keep-documents", help="Leave its documents where they are.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a source, its secrets, and its documents unless they are to be kept."""
    from services.cli.client import Api

    gone = Api(data_dir).call("DELETE", _path(source), params={"keep_documents": keep_documents})
    if as_json:
        show_json(gone)
    else:
        print(f"removed {gone['name']}; its {gone['documents']} documents {'stay' if gone['kept'] else 'go, too'}")


def _path(source: str) -> str:
    from urllib.parse import quote

    return f"/v1/sources/{quote(source, safe='')}"


def _finish(api: "Api", source: Json, wait: bool, as_json: bool) -> None:
    """Show it; with `wait` once nothing of it is under way any more."""
    if wait and source["kind"] != "push":
        source = _settled(api, source["id"])
    _show(source, as_json)
    if wait and (source["state"] != "succeeded" or source["counts"].get("failed") or source["documents"].get("failed")):
        raise typer.Exit(3)


def _settled(api: "Api", source: str) -> Json:
    while True:
        found = api.call("GET", _path(source))
        busy = any(found["documents"].get(state) for state in (*UNFINISHED, "deleting"))
        if found["state"] not in UNFINISHED and not busy:
            return found
        time.sleep(0.3)


def _show(source: Json, as_json: bool) -> None:
    if as_json:
        show_json(source)
        return
    counts = ", ".join(f"{count} {name}" for name, count in source["counts"].items() if count) or "nothing yet"
    step = f" ({source['step']} {source['done']} of {source['total']})" if source["step"] else ""
    print(f"{source['name']} ({source['id']}, {source['kind']}) for {source['knowledge_base']}")
    print(f"  last sync: {source['state'] or 'never'}{step}: {counts}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(source["documents"].items())) or "none"
    print(f"  documents: {states}")
    print(
        f"  next sync: {source['next_sync'] or 'on demand'}{', and when something changes' if source['watch'] else ''}"
    )
    for trouble in (source["error"], source["watch_error"]):
        if trouble:
            print(f"  {trouble}")
    for problem in source["problems"]:
        print(f"  left out: {problem['error']}")
