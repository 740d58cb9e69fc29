"""The command `deepwell`. Exit codes: 0 all good, 1 a bug, 2 usage, 3 some documents failed, 4 not reachable.

Everything heavy is imported inside the commands, so that `deepwell --help` answers at once.
"""

import sys
from typing import TYPE_CHECKING

import typer

from services.cli import (
    ask,
    chat,
    compose,
    documents,
    endpoint,
    jobs,
    keys,
    knowledge_bases,
    models,
    move,
    plan,
    prompt,
    run,
    sources,
)

if TYPE_CHECKING:
    from pipelines.errors import RagError

app = typer.Typer(
    name="deepwell",
    help="Answers questions over your own documents with DeepSeek-R1, on your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(run.up)
app.command("serve")(run.serve)
app.command("worker")(run.worker)
app.command("samples")(run.samples)
app.add_typer(compose.app, name="compose")
app.command("status")(run.status)
app.command("doctor")(run.doctor)
app.command("plan")(plan.plan)
app.command("mcp")(run.mcp)
app.add_typer(knowledge_bases.app, name="kb")
app.command("move")(move.move)
app.command("add")(documents.add)
app.command("rm")(documents.rm)
app.add_typer(jobs.app, name="jobs")
app.add_typer(sources.app, name="source")
app.command("search")(ask.search)
app.command("ask")(ask.ask)
app.command("client")(chat.client)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(prompt.app, name="prompt")
app.add_typer(endpoint.app, name="endpoint")


def main() -> None:
    """Console script: run a command, show a refusal as one clear line."""
    from pipelines.errors import RagError

    try:
        app()
    except RagError as error:
        sys.stderr.write(f"deepwell: {error}\n")
        sys.exit(exit_code(error))


def exit_code(error: "RagError") -> int:
    """Exit code of a refusal: 4 not reachable, 3 a document's fault or no space, 2 the caller's, 1 a bug."""
    if error.status == 503:
        return 4
    if error.status in (413, 415, 422, 507):
        return 3
    return 2 if error.status < 500 else 1
