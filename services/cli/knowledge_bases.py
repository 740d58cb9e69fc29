"""`deepwell kb create|list|pause|resume|rechunk|delete`."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.documents import show_receipt
from services.cli.options import AsJson, DataDir, show_json, show_table

app = typer.Typer(help="Make, list and delete knowledge bases.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the knowledge base.")]


@app.command("create")
def create(
    name: Name,
    description: Annotated[str, typer.Option(help="What it holds, for people.")] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a knowledge base."""
    from services.cli.client import Api

    made = Api(data_dir).call("POST", "/v1/knowledge_bases", json={"name": name, "description": description})
    show_json(made) if as_json else print(f"knowledge base {made['name']} ({made['id']})")


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the knowledge bases."""
    from services.cli.client import Api

    found = Api(data_dir).call("GET", "/v1/knowledge_bases")
    if as_json:
        show_json(found)
    else:
        rows: list[list[object]] = [
            [k["name"], k["documents"], k["chunks"], k["description"]] for k in found["knowledge_bases"]
        ]
        show_table("Knowledge bases", ["name", "documents", "chunks", "description"], rows)


@app.command("pause")
def pause(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Let its ingestion wait, of documents that are added meanwhile too; searches go on."""
    _change("pause", name, as_json, data_dir)


@app.command("resume")
def resume(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Let its ingestion go on, each document where it stopped."""
    _change("resume", name, as_json, data_dir)


def _change(verb: str, name: str, as_json: bool, data_dir: Path | None) -> None:
    from services.cli.client import Api

    base = Api(data_dir).call("POST", f"/v1/knowledge_bases/{name}/{verb}")
    states = ", ".join(f"{count} {state}" for state, count in base["states"].items())
    show_json(base) if as_json else print(f"{name}: {'paused' if base['paused'] else 'working'}; {states or 'empty'}")


@app.command("rechunk")
def rechunk(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read and split every document anew by the settings of today; only passages that changed are embedded."""
    from services.cli.client import Api

    queued = Api(data_dir).call("POST", f"/v1/knowledge_bases/{name}/rechunk")
    show_json(queued) if as_json else print(f"{name}: {len(queued['jobs'])} documents are read again")


@app.command("check")
def check(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Compare both indexes with the database: what is missing, what nobody has any more. Exit code 3 if they differ."""
    from services.cli.client import Api

    found = Api(data_dir).call("GET", f"/v1/knowledge_bases/{name}/check")
    lost = (f"{found['lost_vectors']} vectors and {found['lost_words']} texts are missing", f"{found['orphans']} are")
    differs = found["lost_vectors"] or found["lost_words"] or found["orphans"]
    words = f"{', '.join(lost)} nobody's; the worker mends it within the hour, and at its start"
    show_json(found) if as_json else print(f"{name}: {found['chunks']} passages; {words if differs else 'all well'}")
    if differs:
        raise typer.Exit(3)


@app.command("reembed")
def reembed(
    name: Name,
    *,
    server: Annotated[str, typer.Option("--server", help="Embedding server; that of the settings if left out.")] = "",
    model: Annotated[str, typer.Option("--model", help="Embedding model.")] = "",
    url: Annotated[str, typer.Option("--url", help="Address of the embedding server.")] = "",
    query_prefix: Annotated[str, typer.Option("--query-prefix", help="Text put before a question.")] = "",
    passage_prefix: Annotated[str, typer.Option("--passage-prefix", help="Text put before a passage.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until searches use the new model.")] = True,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Embed every passage anew by another model beside the running index; searches change over at the end."""
    from services.cli.client import Api
    from services.cli.jobs import follow

    body = {
        "server": server,
        "model": model,
        "url": url,
        "query_prefix": query_prefix,
        "passage_prefix": passage_prefix,
    }
    api = Api(data_dir)
    job = api.call("POST", f"/v1/knowledge_bases/{name}/reembed", json=body)
    if wait:
        job = follow(api, job["id"], quiet=as_json)
    show_json(job) if as_json else print("\n".join(job["notes"]) or f"{job['id']}: {job['error'] or job['state']}")
    if wait and job["state"] != "succeeded":
        raise typer.Exit(3)


@app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    receipt: Annotated[bool, typer.Option("--receipt", help="Print what every store had before and after.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a knowledge base with everything in it."""
    from services.cli.client import Api

    api = Api(data_dir)
    if not yes and not as_json:
        typer.confirm(f"Delete {name} with every document in it?", abort=True)
    gone = api.call("DELETE", f"/v1/knowledge_bases/{name}")
    if as_json:
        show_json(gone)
        return
    print(f"deleted {name}: {gone['removed']}")
    if receipt:
        show_receipt(gone)
