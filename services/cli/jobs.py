"""`deepwell jobs list|show|watch|pause|resume|cancel|retry|rerun`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table

if TYPE_CHECKING:
    from services.cli.client import Api

app = typer.Typer(help="Look at ingestions and deletions; pause, resume, cancel and repeat them.", no_args_is_help=True)
Ids = Annotated[list[str], typer.Argument(help="Ids of jobs, as `deepwell jobs list` shows them.")]
Id = Annotated[str, typer.Argument(help="Id of a job.")]
Job = dict[str, Any]


@app.command("list")
def list_(
    kb: Annotated[str, typer.Option("--kb", help="Only of this knowledge base.")] = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", help="queued, running, paused, succeeded, failed, dead, cancelled.")
    ] = None,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="Those that failed, with the reason.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 100,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List jobs, newest first; with --kb, --state or --dead-letters the latest ingestion of each document."""
    from services.cli.client import Api

    states = [*(state or ()), *(("failed", "dead") if dead_letters else ())]
    found = Api(data_dir).call("GET", "/v1/jobs", params={"knowledge_base": kb, "state": states, "limit": limit})
    show_json(found) if as_json else show(found["jobs"])


def show(jobs: list[Job]) -> None:
    """Jobs as a table, and under it why some of them failed."""
    rows: list[list[object]] = [[j["id"], j["document"], j["state"], j["step"], pages(j), rest(j)] for j in jobs]
    show_table("Jobs", ["job", "document", "state", "step", "pages", "left"], rows)
    for job in jobs:
        if job["error"]:
            print(f"{job['document']}: {job['error']}")


def pages(job: Job) -> str:
    """Pages of the step that are done, of how many."""
    return f"{job['pages_done']}/{job['pages_total'] or '?'}" if job["kind"] != "delete" else ""


def rest(job: Job) -> str:
    """The estimate, for people."""
    return "" if job["eta"] is None else f"{job['eta']:.0f} s"


@app.command("show")
def show_one(job: Id, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show one job."""
    from services.cli.client import Api

    found = Api(data_dir).call("GET", f"/v1/jobs/{job}")
    show_json(found) if as_json else show([found])


@app.command("watch")
def watch(job: Id, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Follow a job until it has ended; exit code 3 if it did not succeed."""
    from services.cli.client import Api

    last = follow(Api(data_dir), job, quiet=as_json)
    if as_json:
        show_json(last)
    if last.get("state") != "succeeded":
        raise typer.Exit(3)


def follow(api: "Api", job: str, quiet: bool) -> Job:
    """A job once it has ended; each step of it is a line."""
    last: Job = {}
    with api.events(f"/v1/jobs/{job}/events") as events:
        for _, last in events:
            if not quiet:
                subject = last["document"] or last["knowledge_base"]
                print(f"{last['state']:>9}  {last['step']:<10} {pages(last):>12} {rest(last):>7}  {subject}")
    return last


def _each(verb: str, ids: list[str], as_json: bool, data_dir: Any) -> None:
    from services.cli.client import Api

    api = Api(data_dir)
    changed = [api.call("POST", f"/v1/jobs/{job}/{verb}") for job in ids]
    show_json({"jobs": changed}) if as_json else show(changed)


@app.command("pause")
def pause(jobs: Ids, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Let ingestions wait; what is done stays. For a whole knowledge base: `deepwell kb pause`."""
    _each("pause", jobs, as_json, data_dir)


@app.command("resume")
def resume(jobs: Ids, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Let paused ingestions go on where they stopped."""
    _each("resume", jobs, as_json, data_dir)


@app.command("cancel")
def cancel(jobs: Ids, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Stop ingestions for good; what searches saw before stays."""
    _each("cancel", jobs, as_json, data_dir)


@app.command("retry")
def retry(jobs: Ids, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Queue ingestions again that failed, died or were cancelled; what is done is not done again."""
    _each("retry", jobs, as_json, data_dir)


@app.command("rerun")
def rerun(jobs: Ids, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read and split documents anew by the settings of today, also those that succeeded."""
    _each("rerun", jobs, as_json, data_dir)
