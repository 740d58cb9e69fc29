"""`deepwell doctor --model NAME`: probes of any model server, whoever started it. Changes nothing."""

import re
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

import connectors.models
from connectors.chat_model import ServedChat
from connectors.headers import read_headers
from connectors.seam import load
from connectors.upstream import Upstream
from pipelines.errors import BadRequest, ModelUnavailable, RagError
from pipelines.profiles import Profile, profile_for
from services.probes import PROBES
from services.settings import Settings
from services.subject import LEAST_PARAMETERS, Result, Subject

#: where each kind of server tells its version, and the field that holds it
VERSIONS = {
    "vllm": ("/version", "version"),
    "ollama": ("/api/version", "version"),
    "llamacpp": ("/props", "build_info"),
}
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)


async def examine_model(settings: Settings, model: str) -> dict[str, Any]:
    """Run every probe on the model server in force.

    {"ok", "model", "server", "url", "version", "profile", "probes": [{name, outcome, found, fix}]}. Raises BadRequest,
    and ModelUnavailable if nothing answers.
    """
    async with _server(settings, model) as (url, name):
        subject = await _subject(settings, url, name)
        probes = []
        for title, probe in PROBES.items():
            try:
                result = await probe(subject)
            except RagError as error:
                result = Result("fail", str(error), "see the message")
            except NotImplementedError as error:
                result = Result("not applicable", str(error))
            fix = result.fix if result.outcome == "fail" else ""
            probes.append({"name": title, "outcome": result.outcome, "found": result.found, "fix": fix})
    return {
        "ok": all(probe["outcome"] != "fail" for probe in probes),
        "model": subject.chat.model,
        "server": subject.name,
        "url": subject.chat.url,
        "version": subject.version,
        "profile": subject.profile.name,
        "probes": probes,
    }


@asynccontextmanager
async def _server(settings: Settings, model: str) -> AsyncIterator[tuple[str, str]]:
    """Address and model name. An embedded model is served for the probes alone, whether or not a Deepwell runs."""
    wanted = settings.chat
    if wanted.server != "llamacpp" or wanted.url:
        yield wanted.url, model or wanted.model
        return
    from connectors.models.llamacpp import server_command
    from services.supervisor import Child, Children
    from services.up import http_ready

    path, name = _on_shelf(settings.data_dir, model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    command = server_command(path, port, wanted.context, wanted.threads, parallel=1, alias=name)
    with tempfile.TemporaryDirectory() as logs:
        children = Children(Path(logs))
        try:
            await children.start(Child(name="model", command=command, ready=http_ready(f"{url}/health")))
            await children.ready("model")
            yield url, name
        finally:
            await children.stop()


def _on_shelf(data_dir: Path, model: str) -> tuple[Path, str]:
    from services.models import chosen, directory_of, load_model

    picked = chosen(data_dir)
    if model in ("", picked.id):
        return picked.path, picked.id
    found = load_model(data_dir, model)
    return directory_of(data_dir, found.id) / found.files[0], found.id


async def _subject(settings: Settings, url: str, model: str) -> Subject:
    wanted = settings.chat
    profile = profile_for(model, wanted.profile)
    key = wanted.api_key.get_secret_value()
    made = load(connectors.models, wanted.server).chat(
        url, model, api_key=key, profile=profile, timeout=wanted.timeout, context=wanted.context
    )
    if not isinstance(made, ServedChat):
        raise BadRequest(f"{wanted.server} is no model server: there is nothing to probe")
    made = made.reached(headers=read_headers(wanted.headers.get_secret_value(), "chat.headers"), path=wanted.path)
    upstream = made.served.upstream
    await made.names()  # whoever does not answer at all is not probed further
    version = await _version(upstream, wanted.server)
    return Subject(
        chat=made,
        profile=profile,
        version=version,
        too_small=await _too_small(made, profile),
        flags=start_flags(profile, wanted.server, version),
    )


async def _version(upstream: Upstream, server: str) -> str:
    path, field = VERSIONS.get(server, ("", ""))
    if not path:
        return ""
    try:
        async with await upstream.request("GET", path, timeout=10.0) as answer:
            return str((await answer.json()).get(field) or "") if answer.status == 200 else ""
    except ModelUnavailable:
        return ""


async def _too_small(chat: ServedChat, profile: Profile) -> str:
    """Why knowledge cannot be asked of a model: its size, as the server tells it, or its name does. Unknown: it can."""
    if profile.stand_in:
        return "the stand-in is not let speak"
    parameters = await _told_parameters(chat)
    name = Path(chat.model).name.lower()
    if parameters is None and (size := _SIZE.search(name.replace("-", " ").replace(":", " ").replace("_", " "))):
        parameters = float(size.group(1)) * (1e9 if size.group(2) in "bB" else 1e6)
    if parameters is None and "tiny" in name:
        return "its name says that it is a tiny model"
    if parameters is not None and parameters < LEAST_PARAMETERS:
        return f"{parameters / 1e6:,.0f} million parameters, and {LEAST_PARAMETERS / 1e9:.0f} billion are the least"
    return ""


async def _told_parameters(chat: ServedChat) -> float | None:
    """Parameters as llama.cpp lists them (`meta.n_params`)."""
    async with await chat.served.upstream.request("GET", chat.engine.models_path, timeout=10.0) as answer:
        listing = await answer.json() if answer.status == 200 else {}
    for entry in listing.get("data") or []:
        if found := (entry.get("meta") or {}).get("n_params"):
            return float(found)
    return None


def start_flags(profile: Profile, engine: str, version: str = "") -> tuple[str, ...]:
    """Flags that an engine of a version is started with for a family; those of the newest for an unknown version."""
    rows = profile.engine(engine).flags
    known = bool(re.fullmatch(r"\d+(\.\d+)*", version))
    fitting = [row.flags for row in rows if known and version in SpecifierSet(row.versions)]
    return fitting[0] if fitting else (rows[-1].flags if rows else ())
