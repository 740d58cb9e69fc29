"""What to type into which field of which client, with an address that the client really reaches.

Many clients run in containers, where `localhost` is the container itself: the cause of most "cannot connect" threads.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from pipelines.errors import BadRequest
from pipelines.thinking import NOTHINK
from services.auth import is_loopback

#: how a container names the machine it runs on: Docker Desktop by itself, Docker on Linux with --add-host
CONTAINER_HOST = "host.docker.internal"
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields of one client's form. `{base}` is the address without a path, `{key}`, `{model}` what they say."""

    #: whether it usually runs in a container on the same machine
    container: bool
    fields: Mapping[str, str]
    notes: Sequence[str] = ()


FORMS: Mapping[str, Form] = {
    "dify": Form(
        container=True,
        fields={
            "Model provider": "OpenAI-API-compatible, model type LLM",
            "Model Name": "{model}",
            "API Key": "{key}",
            "API endpoint URL": "{base}/v1",
            "Thinking Mode Support": "Only Thinking Mode",
            "External knowledge API endpoint": "{base}/dify",
            "Embedding model (same URL and key)": "deepwell-embedding",
            "Rerank model (same URL and key)": "deepwell-rerank",
        },
        notes=("External Knowledge ID is the name of a knowledge base.",),
    ),
    "chatbox": Form(
        container=False,
        fields={
            "Provider": "Add custom provider, API mode OpenAI API Compatible",
            "API Host": "{base}",
            "API Key": "{key}",
            "Model": "{model}",
        },
        notes=("The provider type OpenAI with a changed host drops what the model thinks.",),
    ),
    "openwebui": Form(
        container=True,
        fields={"Connection": "OpenAI API", "URL": "{base}/v1", "Key": "{key}", "Model": "{model}"},
        notes=("As an Ollama API connection the URL is {base}, with the same key.",),
    ),
    "n8n": Form(
        container=True,
        fields={
            "Credential": "OpenAI",
            "API Key": "{key}",
            "Base URL": "{base}/v1",
            "Model (by ID)": "{model}",
        },
        notes=("For the Ollama credential the base URL is {base}.",),
    ),
    "cherry": Form(
        container=False,
        fields={"Provider type": "OpenAI", "API Key": "{key}", "API Host": "{base}", "Model ID": "{model}"},
    ),
    "lobechat": Form(
        container=True,
        fields={"Provider": "OpenAI", "API Key": "{key}", "API proxy URL": "{base}/v1", "Model": "{model}"},
    ),
    "nextchat": Form(
        container=False,
        fields={
            "Custom Endpoint": "on",
            "Model Provider": "OpenAI",
            "OpenAI Endpoint": "{base}",
            "OpenAI API Key": "{key}",
            "Custom Model": "{model}",
        },
        notes=("Without /v1: NextChat adds it.",),
    ),
    "fastgpt": Form(
        container=True,
        fields={
            "Model ID": "{model}",
            "Provider protocol": "OpenAI",
            "Custom request address": "{base}/v1/chat/completions",
            "Custom request key": "{key}",
        },
    ),
    "python": Form(
        container=False,
        fields={"base_url": "{base}/v1", "api_key": "{key}", "model": "{model}"},
        notes=('OpenAI(base_url="{base}/v1", api_key="{key}").chat.completions.create(model="{model}", messages=[…])',),
    ),
    "curl": Form(
        container=False,
        fields={"URL": "{base}/v1/chat/completions", "Header": "Authorization: Bearer {key}", "model": "{model}"},
    ),
}


def describe(url: str, key: str, models: Sequence[str], listens_on: str, client: str = "") -> dict[str, Any]:
    """All there is to paste. `url` is where Deepwell was reached, `listens_on` the address it listens on.

    Raises BadRequest for an unknown client.
    """
    if client and client not in FORMS:
        raise BadRequest(f"there is no client {client!r}; there are: {', '.join(FORMS)}")
    port = urlsplit(url).port or (443 if url.startswith("https") else 80)
    closed = is_loopback(listens_on)
    addresses = {
        "this_machine": url,
        "container": f"http://{CONTAINER_HOST}:{port}" if closed or listens_on in EVERYWHERE else url,
        "network": [] if closed else [f"http://{address}:{port}" for address in network_addresses(listens_on)],
    }
    form = FORMS.get(client)
    base = addresses["container" if form and form.container else "this_machine"]
    # the plain model last: what people want is a knowledge base
    thinking = [model for model in models if not model.endswith(NOTHINK)]
    model = next(iter([*thinking[1:], *thinking]), "deepwell")
    fill = {"base": base, "key": key, "model": model}
    return {
        "client": client,
        "base_url": f"{base}/v1",
        "ollama_url": base,
        "dify_url": f"{base}/dify",
        "mcp_url": f"{base}/mcp",
        "key": key,
        "models": list(models),
        "listens_on": listens_on,
        "reachable_from_containers": not closed,
        "addresses": addresses,
        "fields": {name: value.format(**fill) for name, value in form.fields.items()} if form else {},
        "notes": [*(note.format(**fill) for note in (form.notes if form else ())), *remarks(closed, form, client)],
    }


def remarks(closed: bool, form: Form | None, client: str) -> list[str]:
    """What stands between the client and the service, and how to change it."""
    said = []
    if closed and (form is None or form.container):
        said.append(
            "Deepwell listens on loopback only. Containers of Docker Desktop reach it nevertheless; on Linux, and from "
            "other machines, nothing does: start it with DEEPWELL_SERVER__HOST=0.0.0.0 (or --host 0.0.0.0). "
            "A key is always asked for."
        )
    if form is None or form.container:
        said.append(
            f"Docker on Linux knows {CONTAINER_HOST} only in containers started with "
            f"--add-host {CONTAINER_HOST}:host-gateway (compose: extra_hosts)."
        )
    if client:
        said.append(
            f"The key above may do everything. Make one for this client: deepwell keys create {client}"
            + (f" --client {client}" if client != "curl" else "")
        )
    return said


def network_addresses(listens_on: str) -> list[str]:
    """IPv4 addresses under which other machines may reach this one."""
    if listens_on not in EVERYWHERE:
        return [listens_on]
    return [
        address.address
        for name, addresses in sorted(psutil.net_if_addrs().items())
        if not name.startswith(("docker", "br-", "veth"))
        for address in addresses
        if address.family == socket.AF_INET and not is_loopback(address.address)
    ]
