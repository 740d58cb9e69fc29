"""The chat models in force: the one that answers, and the small one for what clients ask for themselves."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from langchain_core.language_models import BaseChatModel

import connectors.models
from connectors.chat_model import ServedChat
from connectors.headers import read_headers
from connectors.seam import load
from connectors.upstream import authorization
from pipelines.errors import ModelUnavailable
from pipelines.profiles import Profile, profile_for
from services.models import chosen
from services.settings import Settings

#: fields of a request about tools; see `ChatModel.effective`
TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """The model that answers right now, with what people see of it."""

    model: BaseChatModel
    #: what clients see; no `/ ? # :` in it, since some put it into a path
    id: str
    profile: Profile
    #: returns if the model server answers, else raises ModelUnavailable
    ping: Callable[[], Awaitable[None]]
    #: fields of a request that have an effect with this model server, and not with every one
    passes_on: frozenset[str] = TOOL_FIELDS

    def effective(self, takes_tools: bool = True) -> frozenset[str]:
        """Those that have an effect now; `takes_tools`: the protocol has a place for tools."""
        tools = takes_tools and self.profile.tools != "none" and not getattr(self.model, "refuses_tools", False)
        return self.passes_on if tools else self.passes_on - TOOL_FIELDS


def build_chat(settings: Settings) -> ChatModel:
    """The chat model in force: the one named by setting, else the one chosen with `deepwell models use`."""
    wanted = settings.chat
    name, profile_name = wanted.model, wanted.profile
    if chosen_by_file(settings):
        picked = chosen(settings.data_dir)
        name, profile_name = picked.id, profile_name or picked.profile_name
    profile = profile_for(name, profile_name)
    if wanted.tools != "auto":
        profile = profile.model_copy(update={"tools": "yes" if wanted.tools == "on" else "none"})
    connector = load(connectors.models, wanted.server)
    model = connector.chat(
        wanted.url,
        name,
        api_key=wanted.api_key.get_secret_value(),
        profile=profile,
        timeout=wanted.timeout,
        context=wanted.context,
    )
    headers = read_headers(wanted.headers.get_secret_value(), "chat.headers")
    if isinstance(model, ServedChat):
        model = model.reached(headers=headers, path=wanted.path, keep_alive=wanted.keep_alive)
    key = wanted.api_key.get_secret_value()
    sent = headers | ({"authorization": authorization(key)} if key else {})
    ping = functools.partial(ping_server, wanted.url or getattr(connector, "DEFAULT_URL", ""), sent)
    passes_on: frozenset[str] = getattr(connector, "PASSES_ON", TOOL_FIELDS)
    return ChatModel(model=model, id=public_id(name), profile=profile, ping=ping, passes_on=passes_on)


def chosen_by_file(settings: Settings) -> bool:
    """Whether the model is the one chosen with `deepwell models use`."""
    return settings.chat.server == "llamacpp" and not settings.chat.model


def build_utility(settings: Settings) -> ChatModel | None:
    """The small model for what clients ask for themselves; None if none is set."""
    if not settings.chat.utility_model:
        return None
    chat = settings.chat.model_copy(
        update={
            "model": settings.chat.utility_model,
            "url": settings.chat.utility_url or settings.chat.url,
            "profile": "",
        }
    )
    return build_chat(settings.model_copy(update={"chat": chat}))


async def ping_server(url: str, headers: Mapping[str, str]) -> None:
    """Return if a model server answers at the address. Raises ModelUnavailable."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=2, headers=dict(headers), trust_env=False) as client:
            response = await client.get(url)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ModelUnavailable(f"no model server answers at {url} ({error or type(error).__name__})") from None
    if response.status_code == 503:
        raise ModelUnavailable(f"the model server at {url} is still loading its model")


@functools.cache
def public_id(model: str) -> str:
    """A model's name as clients may have it in a path or a list: the last part, `-` for what paths cannot hold."""
    plain = model.rstrip("/").rpartition("/")[2]
    return "".join("-" if c in ":?#% " else c for c in plain) or "model"
