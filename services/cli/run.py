"""`deepwell up|serve|worker|status|doctor`: what runs, and how it is."""

from typing import Annotated

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default=False)]
Port = Annotated[
    int | None, typer.Option("--port", help="Port of the HTTP service; 0 takes a free one.", show_default=False)
]


def up(
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    samples: Annotated[bool, typer.Option("--samples/--no-samples", help="Load samples/ and ask one question.")] = True,
    demo: Annotated[bool, typer.Option("--demo", help="End after the answer.")] = False,
) -> None:
    """Start everything on this machine and keep serving: model server, Milvus Lite, HTTP service, worker."""
    import asyncio

    from services.settings import load_settings
    from services.up import Platform

    settings = load_settings({"data_dir": data_dir, "server.host": host, "server.port": port})
    raise typer.Exit(asyncio.run(Platform(settings).run(samples=samples, demo=demo)))


def serve(data_dir: DataDir = None, host: Host = None, port: Port = None) -> None:
    """Run the HTTP service alone; the parts it needs are named by settings."""
    from services.app import run
    from services.settings import load_settings

    run(load_settings({"data_dir": data_dir, "server.host": host, "server.port": port}))


def worker(data_dir: DataDir = None) -> None:
    """Run one ingestion worker; the parts it needs are named by settings."""
    from services.settings import load_settings
    from services.worker import run

    run(load_settings({"data_dir": data_dir}))


def status(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show how every part is, and what is being ingested."""
    from services.cli.client import Api

    api = Api(data_dir)
    ready = api.call("GET", "/readyz")
    jobs = api.call("GET", "/v1/jobs", params={"unfinished": True})["jobs"]
    if as_json:
        show_json({"url": api.url, **ready, "jobs": jobs})
    else:
        print(f"{api.url}  {'ready' if ready['ready'] else 'NOT READY'}  model {ready['model']}")
        show_table("Parts", ["part", "state"], [[name, state] for name, state in ready["parts"].items()])
        rows: list[list[object]] = [
            [j["document"], j["state"], f"{j['pages_done']}/{j['pages_total'] or '?'}"] for j in jobs
        ]
        show_table("Jobs", ["document", "state", "pages"], rows)
    if not ready["ready"]:
        raise typer.Exit(4)


def doctor(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Check this machine and the settings; say what is in force, where it came from, and how to mend what is wrong."""
    from services import doctor as checks
    from services.settings import load_settings

    settings = load_settings({"data_dir": data_dir})
    report = checks.examine(settings)
    if as_json:
        show_json(report)
    else:
        rows: list[list[object]] = [[s["name"], s["value"], s["source"]] for s in report["settings"]]
        show_table("Settings", ["setting", "value", "from"], rows)
        for check in report["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}: {check['found']}")
            if not check["ok"]:
                print(f"      fix: {check['fix']}")
    if not report["ok"]:
        raise typer.Exit(3)


def mcp(data_dir: DataDir = None) -> None:
    """Serve one assistant on standard input and output (Model Context Protocol), from the Deepwell that runs."""
    import asyncio

    from services.cli.client import address_and_key
    from services.mcp import run_stdio

    asyncio.run(run_stdio(*address_and_key(data_dir)))
