"""How a client wants its answers: thinking in which form, a list of sources or not, whose events.

Three places say so, the first that does wins: the request (body fields `reasoning_format` and `sources_list`, or the
headers `X-Deepwell-Reasoning-Format` and `X-Deepwell-Sources-List`), the options of the key, the kind of client that
the key is for.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import Request

from connectors.citing import sources_list
from connectors.reasoning_forms import ReasoningForm, reasoning_form_of
from pipelines.errors import BadRequest
from pipelines.language import Language
from pipelines.types import Event, Finish, Reasoning, Text
from services.citations import Addresses

#: what clients can show: those that know nothing but Markdown get the list of sources
CLIENTS: Mapping[str, Mapping[str, Any]] = {
    "chatbox": {"sources_list": True},
    "cherry": {"sources_list": True},
    "dify": {"sources_list": True},
    "fastgpt": {"sources_list": True},
    "lobechat": {},
    "n8n": {},
    "nextchat": {"sources_list": True},
    "openwebui": {"source_events": True},
    "python": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What one request's client wants."""

    reasoning: ReasoningForm = "reasoning_content"
    #: a Markdown list of the sources cited, behind the answer
    sources_list: bool = False
    #: Open WebUI's frames with sources and status
    source_events: bool = False


_ORDINARY = Delivery()
#: fields of a body that say something about it
_SAID = frozenset({"reasoning_format", "sources_list"})


def delivery_of(request: Request, body: Mapping[str, Any]) -> Delivery:
    """Read it from a request that is authenticated, and its body."""
    key: Mapping[str, Any] = request.state.options
    if not key and _SAID.isdisjoint(body) and not any(name.startswith(b"x-") for name, _ in request.scope["headers"]):
        return _ORDINARY  # the usual case
    kind = CLIENTS.get(key.get("client", ""), {})
    headers = request.headers
    form = (
        reasoning_form_of(body.get("reasoning_format"))
        or reasoning_form_of(headers.get("x-deepwell-reasoning-format"))
        or reasoning_form_of(key.get("reasoning_format"))
    )
    listed = [_flag(body.get("sources_list")), _flag(headers.get("x-deepwell-sources-list")), key.get("sources_list")]
    open_webui = any(name.startswith("x-openwebui-") for name in headers)
    return Delivery(
        reasoning=form or "reasoning_content",
        sources_list=next((bool(flag) for flag in listed if flag is not None), kind.get("sources_list", False)),
        source_events=open_webui or kind.get("source_events", False),
    )


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(str(value).lower())


def addresses_for(request: Request, delivery: Delivery | None = None) -> Addresses:
    """The addresses of one answer's passages, as the readers of this request reach them."""
    deepwell = request.app.state.deepwell
    public = deepwell.settings.server.public_url
    return Addresses(
        deepwell.signer, lambda: public or str(request.base_url), quotes=delivery is None or not delivery.source_events
    )


async def deliver(
    events: AsyncIterator[Event], delivery: Delivery, addresses: Addresses, language: Language
) -> AsyncGenerator[Event]:
    """The events as the client wants them."""
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            for each in delivered(delivery, addresses, language, event):
                yield each


def delivered(delivery: Delivery, addresses: Addresses, language: Language, event: Event) -> tuple[Event, ...]:
    """What a client gets for one event. The address of a passage is known before the event that names it goes on."""
    addresses.note(event)
    if isinstance(event, Reasoning) and delivery.reasoning == "none":
        return ()
    if isinstance(event, Finish) and delivery.sources_list and event.citations:
        return Text(sources_list(event.citations, addresses.urls, language)), event
    return (event,)


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a key, those that are set. Raises BadRequest for an unknown client or form."""
    client, form = options.get("client"), options.get("reasoning_format")
    if client and client not in CLIENTS:
        raise BadRequest(f"there is no kind of client {client!r}: use one of {', '.join(CLIENTS)}")
    if form and form not in get_args(ReasoningForm):
        raise BadRequest(f"there is no form of reasoning {form!r}: use one of {', '.join(get_args(ReasoningForm))}")
    return {name: value for name, value in options.items() if value is not None and value != ""}
