"""What can be done with sources: the verbs behind REST."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import connectors.sources
from connectors import seam
from connectors.source import Kind, Spec, known_names
from pipelines.errors import BadRequest, Forbidden
from services import credentials
from services.build import Deepwell
from services.comparing import patterns
from services.schedule import check_schedule
from services.settings import Settings
from services.store.database import database_errors
from services.store.names import document_name
from services.store.records import Source

#: options of every kind
COMMON: Mapping[str, str] = {
    "prefix": "put before the names of its documents",
    "include": "patterns of what to take, separated by commas; everything if left out",
    "exclude": "patterns of what to leave out, separated by commas",
}
#: file in the data directory with folders that the command line of this machine allowed, one a line
ALLOWED = "allowed-folders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A source to be made."""

    kind: str
    location: str
    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: None takes what is usual for the kind
    schedule: str | None = None
    watch: bool | None = None


async def add_source(deepwell: Deepwell, knowledge_base_id: str, wish: Wish) -> Source:
    """Make a source and queue its first sync.

    Raises BadRequest for what makes no sense, Forbidden for a folder or an address that the settings do not allow,
    Conflict if the name is taken.
    """
    kind: Kind = seam.load(connectors.sources, wish.kind)
    known_names(wish.kind, "option", wish.options, {**COMMON, **kind.OPTIONS})
    known_names(wish.kind, "secret", wish.credentials, kind.CREDENTIALS)
    spec = Spec(
        location=wish.location.strip(),
        options=wish.options,
        credentials=wish.credentials,
        private_hosts=deepwell.settings.sync.private_hosts,
    )
    spec = await asyncio.to_thread(kind.check, spec)
    await asyncio.to_thread(_allowed, deepwell.settings, spec)
    if prefix := wish.options.get("prefix"):
        document_name(prefix + "x")
    watches = wish.kind == "folder" if wish.watch is None else wish.watch
    if watches and wish.kind != "folder":
        raise BadRequest(f"only folders can be watched: give a source of kind {wish.kind} a schedule")
    made = await deepwell.store.sources.create(
        knowledge_base_id=knowledge_base_id, kind=wish.kind, name=source_name(wish.name or spec.location),
        location=spec.location, options=dict(spec.options), watch=watches,
        schedule=check_schedule(kind.SCHEDULE if wish.schedule is None else wish.schedule),
    )  # fmt: skip
    with database_errors():
        await asyncio.to_thread(credentials.keep, deepwell.settings.data_dir, made.id, wish.credentials)
    if wish.kind != "push":
        await deepwell.jobs.sync(made.id)
    return await deepwell.store.sources.get(made.id)


def source_name(name: str) -> str:
    """A source is called by its location unless it is given a name of one line. Raises BadRequest."""
    name = document_name(name)[:200]
    if name.startswith("src-"):
        raise BadRequest("a source's name does not begin with src-, as ids do")
    return name


def allowed_folders(settings: Settings) -> list[Path]:
    """Folders that sources of this machine's files may lie in."""
    found = patterns(settings.sync.folders)
    listed = settings.data_dir / ALLOWED
    if listed.exists():
        found += [line for line in listed.read_text(encoding="utf-8").splitlines() if line]
    return [Path(folder).expanduser().resolve() for folder in found]


def allow_folder(data_dir: Path, folder: Path) -> None:
    """Allow a folder; for whoever can write the data directory, which is more than a key."""
    if any(character in str(folder) for character in "\r\n"):
        raise BadRequest("a folder with a line break in its name cannot be a source: rename it")
    descriptor = os.open(data_dir / ALLOWED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{folder}\n")


def _allowed(settings: Settings, spec: Spec) -> None:
    """Raises Forbidden for files of this machine outside the allowed folders, and for our own data."""
    path = Path(spec.location)
    if not path.is_absolute():
        return
    data, real = settings.data_dir.resolve(), path.resolve()
    if real.is_relative_to(data) or data.is_relative_to(real):
        raise Forbidden(f"{path} holds Deepwell's own data, or lies in it: choose another folder")
    if not any(real.is_relative_to(folder) for folder in allowed_folders(settings)):
        raise Forbidden(
            f"{path} is not in a folder that sources may read: add it with `deepwell source add` on the machine of the "
            "service, or name it in setting sync.folders (DEEPWELL_SYNC__FOLDERS) there"
        )


async def change_source(deepwell: Deepwell, found: Source, changes: Mapping[str, object]) -> Source:
    """Change name, schedule, watch or secrets; what is None stays. Raises BadRequest, Conflict."""
    values: dict[str, object] = {}
    if isinstance(name := changes.get("name"), str):
        values["name"] = source_name(name)
    if isinstance(schedule := changes.get("schedule"), str):
        values |= {"schedule": check_schedule(schedule), "due": None}
    if isinstance(watch := changes.get("watch"), bool):
        if watch and found.kind != "folder":
            raise BadRequest(f"only folders can be watched: give a source of kind {found.kind} a schedule")
        values |= {"watch": watch, "watch_error": ""}
    if isinstance(secrets := changes.get("credentials"), Mapping):
        kind: Kind = seam.load(connectors.sources, found.kind)
        known_names(found.kind, "secret", secrets, kind.CREDENTIALS)
        with database_errors():
            await asyncio.to_thread(credentials.keep, deepwell.settings.data_dir, found.id, secrets)
    if values:
        await deepwell.store.sources.configure(found.id, **values)
    return await deepwell.store.sources.get(found.id)
