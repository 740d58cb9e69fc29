"""`deepwell endpoint show`."""

from typing import Annotated

import typer

from services.cli.options import AsJson, DataDir, show_json

app = typer.Typer(help="What to type into clients.", no_args_is_help=True)


@app.command("show")
def show(
    client: Annotated[
        str,
        typer.Option(
            "--for",
            help="dify, chatbox, openwebui, n8n, cherry, lobechat, nextchat, fastgpt, python or curl.",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show addresses, key and model ids, and for a client what goes into which field."""
    from services.cli.client import Api, address_and_key, listening_on
    from services.endpoint import describe

    url, key = address_and_key(data_dir)
    models = [model["id"] for model in Api(data_dir).call("GET", "/v1/models")["data"]]
    found = describe(url, key, models, listening_on(data_dir, url), client)
    if as_json:
        show_json(found)
        return
    if client:
        width = max(len(name) for name in found["fields"])
        for name, value in found["fields"].items():
            print(f"{name:<{width}}  {value}")
    else:
        print(f"OpenAI-compatible  {found['base_url']}\nOllama-compatible  {found['ollama_url']}")
        print(f"Dify knowledge     {found['dify_url']}\nMCP                {found['mcp_url']}")
        print(f"API key            {key}\nfrom containers    {found['addresses']['container']}")
        print(f"from the network   {', '.join(found['addresses']['network']) or 'not reachable'}")
    print(f"\nModels: {', '.join(models)}")
    for note in found["notes"]:
        print(f"- {note}")
