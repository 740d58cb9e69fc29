"""`deepwell up|serve|worker|status|doctor`: what runs, and how it is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table

if TYPE_CHECKING:
    from services.settings import Settings

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
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine and keep serving: model server, Milvus Lite, HTTP service, worker."""
    import asyncio
    import contextlib

    from services.settings import load_settings
    from services.up import Platform

    settings = load_settings({"data_dir": data_dir, "server.host": host, "server.port": port})
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        code = asyncio.run(Platform(settings, announce=out if as_json else None).run(samples=samples, demo=demo))
    raise typer.Exit(code)


def serve(data_dir: DataDir = None, host: Host = None, port: Port = None, as_json: AsJson = False) -> None:
    """Run the HTTP service alone; the parts it needs are named by settings."""
    import os

    from services.app import run
    from services.settings import load_settings
    from services.up import listening_port, reachable

    given = {"data_dir": data_dir, "server.host": host, "server.port": port}
    server = load_settings(given).server
    settings = load_settings({**given, "server.port": listening_port(server.host, server.port)})
    if as_json:
        show_json({"url": reachable(server.host, settings.server.port), "pid": os.getpid()})
    run(settings)


def worker(
    data_dir: DataDir = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run none: exit with 0 if one is well on this machine or container.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run one ingestion worker; the parts it needs are named by settings. With PostgreSQL, as many as you like."""
    import os

    from services.settings import load_settings

    settings = load_settings({"data_dir": data_dir})
    if check:
        _check_worker(settings.data_dir, as_json)
        return
    from services.worker import run

    if as_json:
        show_json({"data_dir": str(settings.data_dir.absolute()), "pid": os.getpid()})
    run(settings)


def samples(data_dir: DataDir = None) -> None:
    """Load the samples into the knowledge base `samples` and ask one question: does the whole of it work?"""
    from services.settings import load_settings
    from services.up import EXIT_DOCUMENTS, show_samples

    if not show_samples(load_settings({"data_dir": data_dir}).data_dir):
        raise typer.Exit(EXIT_DOCUMENTS)


def _check_worker(data_dir: Path, as_json: bool) -> None:
    from services.places import well

    found = data_dir.is_dir() and well(data_dir)
    if as_json:
        show_json({"ok": found, "data_dir": str(data_dir.absolute())})
    elif not found:
        print(f"no worker of this machine is at work in {data_dir.absolute()}: start one with `deepwell worker`")
    if not found:
        raise typer.Exit(4)


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


def doctor(
    model: Annotated[
        str | None,
        typer.Option("--model", help="Probe this model instead; `-` for the one in force.", show_default=False),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="Model server: llamacpp, ollama, vllm or openai.", show_default=False)
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Address of the model server.", show_default=False)] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", help="Its key; DEEPWELL_CHAT__API_KEY is seen by fewer.", show_default=False),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended by itself, then check.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Check this machine and the settings, or, with --model, a model server: what is wrong, and how to mend it."""
    from services.settings import load_settings

    given = {"data_dir": data_dir, "chat.server": server, "chat.url": url, "chat.api_key": api_key}
    settings = load_settings(given)
    if fix:
        from services.doctor_fix import mend

        for line in mend(settings):
            sys.stderr.write(f"mended: {line}\n")
    if model is None:
        _show_machine(settings, as_json)
    else:
        _show_model(settings, "" if model == "-" else model, as_json)


def _show_machine(settings: "Settings", as_json: bool) -> None:
    from services import doctor as checks

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


def _show_model(settings: "Settings", model: str, as_json: bool) -> None:
    import asyncio

    from services.doctor_model import examine_model

    report = asyncio.run(examine_model(settings, model))
    if as_json:
        show_json(report)
    else:
        title = f"{report['model']} ({report['profile']}) on {report['server']} {report['version']}".rstrip()
        rows: list[list[object]] = [[p["name"], p["outcome"], p["found"], p["fix"]] for p in report["probes"]]
        show_table(title, ["probe", "result", "found", "fix"], rows)
    if not report["ok"]:
        raise typer.Exit(3)


def mcp(data_dir: DataDir = None) -> None:
    """Serve one assistant on standard input and output (Model Context Protocol), from the Deepwell that runs."""
    import asyncio

    from services.cli.client import address_and_key
    from services.mcp import run_stdio

    asyncio.run(run_stdio(*address_and_key(data_dir)))
