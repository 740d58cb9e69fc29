"""`deepwell models list|show|pull|import|use|rm`: works on the data directory, with or without a server running."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json, show_table

if TYPE_CHECKING:
    from connectors.download import Progress
    from services.models import ShelfModel
    from services.settings import Settings

app = typer.Typer(help="Bring, choose and remove the models that answer.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the model, as `deepwell models list` shows it.")]


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the models that are here, and those that can be pulled."""
    from services.models import chosen, list_models
    from services.registry import registered

    directory = _settings(data_dir).data_dir
    in_use, here = chosen(directory).id, list_models(directory)
    tags = {model.id for model in here}
    shown = [_shape(model, in_use) for model in here]
    shown += [
        _available(model.tag(quantization), quantization, files.bytes, model)
        for model in registered()
        for quantization, files in model.quantizations.items()
        if model.tag(quantization) not in tags
    ]
    if as_json:
        show_json({"models": shown})
        return
    rows: list[list[object]] = [[m["id"], m["state"], f"{m['size'] / 1e9:.1f} GB", m["licence"]] for m in shown]
    show_table("Models", ["name", "state", "size", "licence"], rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Any model's name: a tag, a Hugging Face id, a file, a served alias.")],
    profile: Annotated[str, typer.Option("--profile", help="Show this profile instead of the one that matches.")] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show how a model is handled: its profile with sources, its flags on each engine, what the registry knows."""
    from services.model_card import model_card

    card = model_card(_settings(data_dir).data_dir, name, profile)
    if as_json:
        show_json(card)
        return
    print(f"{name}: {card['title']}  (profile {card['profile']})")
    show_table("How it is handled", ["", "value", "why"], card["handling"])
    show_table("Engines", ["engine", "versions", "start with", "thinking in", "switch", "limit"], card["engines"])
    for title in ("registry", "here"):
        if card[title]:
            show_table(title.capitalize(), ["", ""], [list(pair) for pair in card[title].items()])
    print("Sources:")
    for source in card["sources"]:
        print(f"  - {source}")


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="Name in the registry, e.g. deepseek-r1:1.5b or deepseek-r1:7b-q8_0.")],
    hub: Annotated[str | None, typer.Option(help="huggingface or modelscope.", show_default=False)] = None,
    mirror: Annotated[str | None, typer.Option(help="Base URL of a mirror.", show_default=False)] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Download a model, going on where an earlier try stopped; it answers at once if only the stand-in did so far."""
    import asyncio

    from services.pull import pull as bring

    settings = _settings(data_dir, {"hub.name": hub, "hub.mirror": mirror})
    with _bar(name, quiet=as_json) as report:
        model = asyncio.run(bring(settings.data_dir, name, settings.hub, report))
    _show(settings, model, as_json)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A GGUF file; of a split model the first one.")],
    name: Annotated[str, typer.Option("--as", help="Name to give it; the file's own if left out.")] = "",
    link: Annotated[bool, typer.Option("--link", help="Leave the file where it is.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take a GGUF file of this machine, for example one carried here on a disk."""
    import asyncio

    from services.pull import import_gguf

    settings = _settings(data_dir)
    with _bar(path.name, quiet=as_json) as report:
        model = asyncio.run(import_gguf(settings.data_dir, path, name, link, report))
    _show(settings, model, as_json)


@app.command("use")
def use(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Choose the model that answers; a running server switches to it."""
    from services import models

    directory = _settings(data_dir).data_dir
    model = models.use(directory, name)
    if as_json:
        show_json({"model": {"id": model.id, "stand_in": model.stand_in, "path": str(model.path)}})
    else:
        print(f"{model.id} answers from now on" + (" (a stand-in: no real model)" if model.stand_in else ""))


@app.command("rm")
def rm(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Remove a model from this machine; not the one in use."""
    from services import models

    freed = models.remove(_settings(data_dir).data_dir, name)
    show_json({"removed": name, "bytes": freed}) if as_json else print(f"removed {name}: {freed / 1e9:.2f} GB are free")


def _settings(data_dir: Path | None, more: dict[str, str | None] | None = None) -> "Settings":
    from services.settings import load_settings

    return load_settings({"data_dir": data_dir, **(more or {})})


def _shape(model: "ShelfModel", in_use: str) -> dict[str, Any]:
    state = "in use" if model.id == in_use else "here"
    shown = {"id": model.id, "state": state, "name": model.name, "quantization": model.quantization}
    fields = ("size", "licence", "parameters", "context", "architecture", "source", "verified", "stand_in")
    return shown | {field: getattr(model, field) for field in fields}


def _available(tag: str, quantization: str, size: int, model: Any) -> dict[str, Any]:
    shown = {"id": tag, "state": "can be pulled", "name": model.name, "quantization": quantization, "size": size}
    fields = ("licence", "parameters", "context", "architecture")
    return shown | {f: getattr(model, f) for f in fields} | {"source": "", "verified": False, "stand_in": False}


def _show(settings: "Settings", model: "ShelfModel", as_json: bool) -> None:
    from services.models import chosen

    in_use = chosen(settings.data_dir).id
    if as_json:
        show_json({"model": _shape(model, in_use)})
        return
    checked = "checksum as the hub states it" if model.verified else "no checksum to compare with"
    print(f"{model.id}: {model.name}, {model.size / 1e9:.2f} GB, {checked}; licence: {model.licence}")
    print(f"{model.id} answers from now on" if model.id == in_use else f"use it with: deepwell models use {model.id}")


@contextlib.contextmanager
def _bar(name: str, quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """A progress bar on standard error: bytes, rate, time left."""
    if quiet:
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda p: bar.update(task, completed=p.done, total=p.total)
