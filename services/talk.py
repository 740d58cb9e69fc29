"""A conversation with any OpenAI-compatible server, as R1 wants it: what `deepwell client` is made of.

It is Deepwell's own way of answering without documents (pipelines.answer): sampling and system turn by the model's
profile, no thinking of earlier turns upstream, a limit of tokens that leaves room for the answer.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from connectors.chat_model import ServedChat
from connectors.models import openai
from pipelines.answer import answer
from pipelines.errors import BadRequest, ModelUnavailable, RagError, UnknownModel
from pipelines.profiles import Profile, profile_for
from pipelines.rag import Rag
from pipelines.turn import Options
from pipelines.types import Caller, Event, Message

#: tokens an answer may have, thinking included: DeepSeek's README of R1; half of a smaller window
MOST_TOKENS = 32_768
#: this chat searches nothing, so it needs no part but the model
NOTHING = cast(Any, None)
YOU = Caller(name="you", scopes=frozenset({"chat"}))
#: what stands in messages for people who run Deepwell, in words for people who run this client
_WORDS = {
    "DEEPWELL_CHAT__API_KEY": "DEEPWELL_CLIENT__TOKEN (or --token-file)",
    "DEEPWELL_CHAT__MODEL": "--model",
    "DEEPWELL_CHAT__URL": "--url",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A model on a server, ready to be asked."""

    chat: ServedChat
    profile: Profile
    #: the models that the server lists; empty if it lists none
    models: tuple[str, ...]
    max_tokens: int = 0

    @property
    def model(self) -> str:
        """Its name on the server."""
        return self.chat.model

    @property
    def url(self) -> str:
        """The address that paths are added to."""
        return self.chat.url

    async def answer(self, messages: Sequence[Message], options: Options | None = None) -> AsyncGenerator[Event]:
        """Reasoning and Text as they come, then Finish. Raises RagError in words of this client."""
        rag = Rag(chat=self.chat, embeddings=NOTHING, index=NOTHING, lexical=NOTHING, passages=NOTHING)
        try:
            limit = self.max_tokens or min(MOST_TOKENS, (await self.chat.window() or self.profile.context) // 2)
            events = answer(rag, YOU, messages, (), profile=self.profile, max_tokens=limit, options=options)
            async with aclosing(events):
                async for event in events:
                    yield event
        except RagError as error:
            raise in_words(error) from None

    def to(self, model: str) -> "Talk":
        """The same server, another model. Raises UnknownModel."""
        if self.models and model not in self.models:
            there = ", ".join(self.models[:20])
            raise UnknownModel(f"{self.url} has no model {model!r}; it has: {there}")
        chat = self.chat.model_copy(update={"model": model, "family": profile_for(model)})
        chat.__dict__.pop("served", None)  # it knows the other model
        return replace(self, chat=chat, profile=profile_for(model))


async def connect(url: str, token: str, model: str = "", max_tokens: int = 0) -> Talk:
    """Find the server's models and take one. Raises BadRequest, ModelUnavailable, UnknownModel."""
    if not url.startswith(("http://", "https://")):
        raise BadRequest(f"{url!r} is no address of a server: it begins with http:// or https://")
    made = openai.chat(url, model or "-", api_key=token, profile=profile_for(model or "-"))
    chat = cast(ServedChat, made)
    try:
        names = tuple(await chat.names())
    except ModelUnavailable as error:
        if "does not know" not in str(error):
            raise in_words(error) from None
        if not model:
            raise ModelUnavailable(
                f"{chat.url}/models is not there (404). The address is wrong, or the server lists no models: an "
                "OpenAI-compatible address usually ends in /v1, of PAI-EAS take --eas_endpoint; else name a --model"
            ) from None
        names = ()
    if not (model or names):
        raise ModelUnavailable(f"{chat.url} lists no model: load one there, or name one with --model")
    talk = Talk(chat=chat, profile=chat.family, models=names, max_tokens=max_tokens)
    return talk.to(model or names[0])


def eas_url(endpoint: str) -> str:
    """The OpenAI-compatible address of a PAI-EAS service: its endpoint and /v1."""
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith("/v1") else f"{endpoint}/v1"


def in_words(error: RagError) -> RagError:
    """The same error, its advice in words of this client."""
    text = str(error)
    for name, word in _WORDS.items():
        text = text.replace(name, word)
    return type(error)(text)
