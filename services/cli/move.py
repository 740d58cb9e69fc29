"""`deepwell move`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table


def move(
    source: Annotated[Path, typer.Option("--from", help="Data directory of the embedded default to move from.")],
    kb: Annotated[
        list[str] | None, typer.Option("--kb", help="Knowledge base; may be given several times. Default: all.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Move knowledge bases from a data directory into the databases that the settings name (PostgreSQL, Milvus).

    The source stays as it is. A move that was cut off goes on where it stopped: give the command again.
    """
    import asyncio

    from services.moving import move as moving
    from services.settings import load_settings

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    settings = load_settings({"data_dir": data_dir})
    report = asyncio.run(moving(settings, source, kb or [], say))
    if as_json:
        show_json(report)
    else:
        columns = ["knowledge base", "documents", "moved now", "to ingest again", "passages", "same hits", "ok"]
        rows: list[list[object]] = []
        for each in report["knowledge_bases"]:
            found = each["searches"]
            same = f"{found['dense']:.0%} dense, {found['words']:.0%} by words ({found['asked']} searches)"
            counts = [each["documents"], each["now"], each["again"], each["passages"]]
            rows.append([each["name"], *counts, same, "yes" if each["ok"] else "NO"])
        show_table(f"Moved to {report['to']['index']}", columns, rows)
        links = "go on working" if report["citation_links"] else "are made anew"
        print(f"{report['keys']} keys go on working; old citation links {links}. {source} is as it was.")
    if not report["ok"]:
        raise typer.Exit(3)
