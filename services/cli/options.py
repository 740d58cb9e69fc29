"""Options that many commands share, and how results are shown."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Data directory of the Deepwell to use.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a stable shape.")]
Kb = Annotated[str, typer.Option("--kb", help="Name of the knowledge base.")]


def show_json(result: dict[str, Any]) -> None:
    """Print the result for a program to read."""
    print(json.dumps(result, ensure_ascii=False, indent=1))


def show_table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table for a person to read."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")  # a long word goes on in the next line; by itself it would be cut
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file or a program: it has no width
        wide = console.options.update(width=10_000)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
