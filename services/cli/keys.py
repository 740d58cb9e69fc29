"""`deepwell keys create|list|revoke`."""

from typing import Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="For whom the key is, e.g. dify.")],
    *,
    scope: Annotated[list[str] | None, typer.Option(help="chat, retrieve, ingest or admin; may be repeated.")] = None,
    kb: Annotated[list[str] | None, typer.Option("--kb", help="Only this knowledge base; may be repeated.")] = None,
    secret: Annotated[str, typer.Option(help="A secret the client sends anyway, e.g. ollama.")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(help="0: no limit.", show_default=False)] = None,
    concurrent_answers: Annotated[int | None, typer.Option(help="0: no limit.", show_default=False)] = None,
    client: Annotated[
        str, typer.Option(help="The kind of client: chatbox, dify, openwebui, …; decides how citations come.")
    ] = "",
    reasoning_format: Annotated[str, typer.Option(help="reasoning_content, reasoning, think_tags or none.")] = "",
    sources_list: Annotated[
        bool | None, typer.Option("--sources-list/--no-sources-list", help="A list of sources behind answers.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and show its secret, this once. Without --scope it may chat and retrieve."""
    from services.cli.client import Api

    wanted: dict[str, Any] = {
        "name": name,
        "scopes": scope,
        "knowledge_bases": kb,
        "secret": secret,
        "requests_per_minute": requests_per_minute,
        "concurrent_answers": concurrent_answers,
        "client": client,
        "reasoning_format": reasoning_format,
        "sources_list": sources_list,
    }
    body = {field: value for field, value in wanted.items() if value is not None and value not in ("", [])}
    made = Api(data_dir).call("POST", "/v1/keys", json=body)
    show_json(made) if as_json else print(f"{made['key']}\n(key {made['name']}, {made['id']}; it is not shown again)")


@app.command("list")
def list_(
    revoked: Annotated[bool, typer.Option("--revoked", help="Those no longer in force, too.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the keys, without their secrets."""
    from services.cli.client import Api

    found = Api(data_dir).call("GET", "/v1/keys", params={"revoked": revoked})
    if as_json:
        show_json(found)
        return
    rows: list[list[object]] = [
        [k["name"], k["id"], ", ".join(k["scopes"]), bound(k), k["client"], k["last_used"] or "never", k["revoked"]]
        for k in found["keys"]
    ]
    show_table("API keys", ["name", "id", "scopes", "knowledge bases", "client", "last used", "revoked"], rows)


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Name or id of the key.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key invalid at once."""
    from urllib.parse import quote

    from services.cli.client import Api

    gone = Api(data_dir).call("DELETE", f"/v1/keys/{quote(key, safe='')}")
    show_json(gone) if as_json else print(f"revoked {gone['name']} ({gone['id']})")


def bound(key: dict[str, Any]) -> str:
    """The knowledge bases a key is bound to, in words."""
    return "all" if key["knowledge_bases"] is None else ", ".join(key["knowledge_bases"])
