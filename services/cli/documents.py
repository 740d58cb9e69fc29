"""`deepwell add` and `deepwell rm`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, Kb, show_json, show_table

if TYPE_CHECKING:
    from services.cli.client import Api

UNFINISHED = ("queued", "running")
Document = dict[str, Any]


def add(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or http(s) addresses.")],
    kb: Kb = "default",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every document is searchable.")] = True,
    password: Annotated[
        str, typer.Option("--password", help="Opens locked files; `-` asks for it, so that no shell remembers it.")
    ] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add documents to a knowledge base, which is made if it is not there yet."""
    from services.cli.client import Api

    api = Api(data_dir)
    api.ensure_knowledge_base(kb)
    if password == "-":
        password = typer.prompt("Password", hide_input=True, err=True)
    documents = [upload(api, kb, name, source, password) for argument in paths for name, source in expand(argument)]
    if wait:
        documents = follow(api, kb, documents, quiet=as_json)
    shown = [{k: d.get(k) for k in ("id", "name", "state", "chunks", "error")} for d in documents]
    if as_json:
        show_json({"documents": shown})
    else:
        for d in shown:
            print(f"{d['state']:>9}  {d['name']}" + (f"  {d['chunks']} chunks" if d["chunks"] else "") + _why(d))
    if any(d["state"] in ("failed", "dead", "cancelled") for d in shown):
        raise typer.Exit(3)


def _why(document: Document) -> str:
    return f"\n           {document['error']}" if document["error"] else ""


def expand(argument: str) -> Iterator[tuple[str, str | Path]]:
    """What one argument stands for: (name, address or file). Hidden files of a folder are left out."""
    if argument.startswith(("http://", "https://")):
        yield argument, argument
        return
    path = Path(argument)
    if not path.is_dir():
        yield path.name, path
        return
    files = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file()]
    shown = [(inner, file) for inner, file in files if not any(part.startswith(".") for part in inner.parts)]
    if not shown:
        yield path.name, path  # becomes a failed document that says so
    yield from ((inner.as_posix(), file) for inner, file in shown)


def upload(api: "Api", kb: str, name: str, source: str | Path, password: str = "") -> Document:
    """Send one document; what is refused becomes a failed document, so that the rest goes on."""
    from pipelines.errors import RagError, Unavailable

    try:
        if isinstance(source, str):
            from connectors.sources import web

            page = web.fetch(source)
            file: tuple[str, Any, str] = (page.name, page.content, page.media_type)
            return _send(api, kb, name, file, password)
        return _send_file(api, kb, name, source, password)
    except OSError as error:
        reasons = {FileNotFoundError: "there is no such file or folder", IsADirectoryError: "there is no file in it"}
        reason = reasons.get(type(error), error.strerror)
        return {"id": "", "name": str(source), "state": "failed", "chunks": 0, "error": f"{source}: {reason}"}
    except Unavailable as error:
        if isinstance(source, Path):
            raise
        return {"id": "", "name": name, "state": "failed", "chunks": 0, "error": str(error)}
    except RagError as error:
        return {"id": "", "name": name, "state": "failed", "chunks": 0, "error": str(error)}


def _send_file(api: "Api", kb: str, name: str, path: Path, password: str) -> Document:
    """Send a file; once more where the service died meanwhile and comes back: the same content twice is once."""
    from services.cli.client import PATIENCE, Unreachable

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with path.open("rb") as stream:
                return _send(api, kb, name, (path.name, stream, "application/octet-stream"), password)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _send(api: "Api", kb: str, name: str, file: tuple[str, Any, str], password: str) -> Document:
    path = f"/v1/knowledge_bases/{kb}/documents"
    answer = api.call("POST", path, files={"file": file}, data={"name": name, "password": password})
    return dict(answer["documents"][0])


def follow(api: "Api", kb: str, documents: list[Document], quiet: bool) -> list[Document]:
    """Wait until every document has reached its final state, showing pages and an estimate."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pages"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading", total=None)
        while waiting := [d["id"] for d in documents if d["state"] in UNFINISHED]:
            now = {d["id"]: d for d in api.call("GET", f"/v1/knowledge_bases/{kb}/documents")["documents"]}
            documents = [now.get(d["id"], d) for d in documents]
            done = sum(d.get("pages_done") or 0 for d in documents)
            total = sum(d.get("pages_total") or 0 for d in documents)
            bar.update(task, completed=done, total=total or None, description=f"{len(waiting)} documents to go")
            time.sleep(0.3)
    return documents


def rm(
    documents: Annotated[list[str], typer.Argument(help="Ids or names of documents.")],
    kb: Annotated[str | None, typer.Option("--kb", help="Knowledge base in which names are looked up.")] = None,
    receipt: Annotated[bool, typer.Option("--receipt", help="Print what every store had before and after.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Remove documents: their vectors, their text, the files themselves."""
    from services.cli.client import Api

    api = Api(data_dir)
    gone = [api.call("DELETE", f"/v1/documents/{_find(api, kb, document)}") for document in documents]
    if as_json:
        show_json({"documents": gone})
        return
    for document in gone:
        print(f"removed {document['name']} ({document['id']})")
        if receipt:
            show_receipt(document)


def show_receipt(gone: Document) -> None:
    """What each store had before a deletion and has after it."""
    rows: list[list[object]] = [[store, n["before"], n["after"]] for store, n in gone["receipt"].items()]
    show_table(f"Receipt {gone['job']}", ["store", "before", "after"], rows)
    for note in gone["notes"]:
        print(note)


def _find(api: "Api", kb: str | None, document: str) -> str:
    from pipelines.errors import BadRequest, NotFound

    if kb is None:
        if document.startswith("doc-"):
            return document
        raise BadRequest(f"{document!r} is not a document id; to remove by name, say --kb too")
    for found in api.call("GET", f"/v1/knowledge_bases/{kb}/documents")["documents"]:
        if document in (found["id"], found["name"]):
            return str(found["id"])
    raise NotFound(f"knowledge base {kb!r} has no document {document!r}")
