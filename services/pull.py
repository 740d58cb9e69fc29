"""Brings models onto the shelf (services/models.py): from a hub, or from a GGUF file of this machine."""

import asyncio
import hashlib
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

import connectors.hubs
from connectors.download import CHUNK, Progress, Report, check_space, download, http_client
from connectors.gguf import Gguf, read, shard_paths
from connectors.hubs import RemoteFile
from connectors.seam import load
from pipelines.errors import BadRequest, Conflict, NotFound, RagError, UnsupportedDocument
from services.models import STAND_IN, ShelfModel, choose_first, describe, directory_of, load_model, write_whole
from services.registry import find, registered
from services.settings import HubSettings


async def pull(data_dir: Path, name: str, hub: HubSettings, report: Report = lambda _: None) -> ShelfModel:
    """Download a model of the registry, or go on where an earlier pull stopped; at once where it is on the shelf.

    `report` is told the bytes of all files together. The model becomes the chosen one if only the stand-in was.
    Raises BadRequest, Forbidden, NotFound, StorageFull, Conflict, UnreadableDocument or SourceUnavailable.
    """
    model, quantization = find(name)
    tag, wanted = model.tag(quantization), model.quantizations[quantization]
    connector = load(connectors.hubs, hub.name)
    repository = str(getattr(model, hub.name, "")) or model.huggingface
    directory = directory_of(data_dir, tag)
    if (directory / "model.json").exists():
        return choose_first(data_dir, load_model(data_dir, tag))
    async with http_client() as client:
        where = {"mirror": hub.mirror, "token": hub.token.get_secret_value()}
        remotes = [await connector.resolve(client, repository, file, **where) for file in wanted.files]
        directory.mkdir(parents=True, exist_ok=True)
        targets = [directory / Path(file).name for file in wanted.files]
        total = sum(remote.size or 0 for remote in remotes) or wanted.bytes
        check_space(directory, total - sum(_there(target) for target in targets), tag)
        digests: list[str] = []
        for remote, target in zip(remotes, targets, strict=True):
            before = sum(_there(done) for done in targets[: len(digests)])
            digests.append(await _fetch(remote, target, client, _together(report, tag, before, total)))
    header = await asyncio.to_thread(_read_pulled, targets)
    shelf = describe(
        header,
        tag,
        name=model.name,
        licence=model.licence,
        profile=model.profile,
        source=f"{hub.name}:{repository}",
        sha256=tuple(digests),
        verified=all(remote.sha256 for remote in remotes),
    )
    write_whole(directory / "model.json", asdict(shelf))
    return choose_first(data_dir, shelf)


async def import_gguf(
    data_dir: Path, path: Path, model_id: str = "", link: bool = False, report: Report = lambda _: None
) -> ShelfModel:
    """Put a local GGUF file (with its other parts, if it is split) on the shelf; `link` leaves the bytes in place.

    `model_id` defaults to the name in the file. Raises NotFound, UnsupportedDocument, UnreadableDocument (damaged),
    BadRequest (no usable name, or that of another model), Conflict (name taken), StorageFull.
    """
    path = await asyncio.to_thread(path.resolve)
    header = await asyncio.to_thread(read, path)
    if not header.chat_template:
        raise UnsupportedDocument(f"{path} holds no chat template: it is a base model, which cannot answer questions")
    parts = shard_paths(path, header.shards)
    if missing := [part.name for part in parts if not part.is_file()]:
        raise NotFound(f"{path} is split into {header.shards} files and these are missing beside it: {missing}")
    tag = model_id or re.sub(r"[^a-z0-9._-]+", "-", (header.name or path.stem).lower()).strip("-._")[:60]
    directory, known = directory_of(data_dir, tag), _known(tag, header)
    if tag == STAND_IN or (directory / "model.json").exists():
        raise Conflict(f"a model {tag} is on the shelf already: give another name with --as, or remove it first")
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(part.stat().st_size for part in parts)
    if not link:
        check_space(directory, total, tag)
    digests: list[str] = []
    for part in parts:
        before = sum(done.stat().st_size for done in parts[: len(digests)])
        shown = _together(report, tag, before, total)
        digests.append(await asyncio.to_thread(_take, part, None if link else directory / part.name, shown))
    names = tuple(str(part) if link else part.name for part in parts)
    known |= {"source": f"file:{path}", "sha256": tuple(digests), "files": names}
    shelf = describe(header, tag, **({"name": header.name or path.stem} | known))
    write_whole(directory / "model.json", asdict(shelf))
    return choose_first(data_dir, shelf)


def _known(tag: str, header: Gguf) -> dict[str, Any]:
    """What the registry knows of an imported model that is given a registered name."""
    for model in registered():
        if tag in {model.tag(quantization) for quantization in model.quantizations}:
            if model.architecture != header.architecture:
                raise BadRequest(
                    f"{header.path} is a model of architecture {header.architecture}, and {tag} is {model.name} "
                    f"({model.architecture}): give it another name with --as"
                )
            return {"name": model.name, "licence": model.licence, "profile": model.profile}
    return {}


async def _fetch(remote: RemoteFile, target: Path, client: httpx.AsyncClient, report: Report) -> str:
    """Download one file unless an earlier pull finished it; returns its SHA-256."""
    finished = await asyncio.to_thread(_finished, remote, target)
    return finished or await download(remote, target, client, report)


def _read_pulled(targets: list[Path]) -> Gguf:
    try:
        return read(targets[0])
    except RagError:
        for target in targets:  # a hub without checksums sent something else; the next pull begins anew
            target.unlink(missing_ok=True)
        raise


def _there(target: Path) -> int:
    """Bytes of a file, or of what came of it."""
    part = target.with_name(target.name + ".part")
    return next((path.stat().st_size for path in (target, part) if path.exists()), 0)


def _together(report: Report, tag: str, before: int, total: int) -> Report:
    def show(one: Progress) -> None:
        report(Progress(name=tag, done=before + one.done, total=total, rate=one.rate))

    return show


def _finished(remote: RemoteFile, target: Path) -> str:
    """SHA-256 of a file that is there and right; anything else of that name is removed."""
    if not target.exists():
        return ""
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if remote.sha256 == digest:
        return digest
    target.unlink()
    return ""


def _take(source: Path, target: Path | None, report: Report) -> str:
    """Copy a file, or only read it, and return its SHA-256."""
    digest, done, size = hashlib.sha256(), 0, source.stat().st_size
    draft = target.with_name(target.name + ".part") if target else None
    with source.open("rb") as file, open(draft or os.devnull, "wb") as copy:
        while block := file.read(CHUNK):
            copy.write(block)
            digest.update(block)
            done += len(block)
            report(Progress(name=source.name, done=done, total=size, rate=0.0))
    if draft and target:
        draft.replace(target)
    return digest.hexdigest()
