"""Our chat model: a LangChain `BaseChatModel` over any model server, cheap per chunk, thinking separated.

A connector describes its server as an `Engine`: how a request is written and how an event is read. The rest is here:
sampling by the model's profile, thinking in `additional_kwargs["reasoning_content"]` whatever the server calls it,
no reasoning of earlier turns upstream, errors in our tree, usage and finish reason on the last chunk.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, cast
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, SecretStr

from connectors.chunks import message_chunk
from connectors.engine import Engine, Request, whole_message
from connectors.served_model import ServedModel
from connectors.upstream import Upstream
from connectors.wire import plain_messages
from pipelines.delta import Delta
from pipelines.errors import ModelUnavailable
from pipelines.profiles import Profile, profile_for
from pipelines.types import Message


class ServedChat(BaseChatModel):
    """A chat model behind HTTP. Extra call arguments: those of `Request` from `max_tokens` on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    url: str
    model: str = Field(alias="model")
    engine: Engine = Field(exclude=True)
    #: what the model's family needs (`profile` is LangChain's name for something else)
    family: Profile = Field(default_factory=lambda: profile_for(""))
    api_key: SecretStr | None = None
    #: sent with each request, beside the key
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    #: Ollama's word for how long the model stays loaded; "" leaves it to the server
    keep_alive: str = ""
    timeout: float | None = 300.0
    #: tokens of the window asked for, where the server lets a request say so; 0 leaves it to the server
    context: int = 0
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    max_retries: int = 0
    #: a client's temperature and top_p count even where the profile says otherwise
    free_sampling: bool = False

    @property
    def _llm_type(self) -> str:
        return f"deepwell-{self.engine.name}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "url": self.url, "profile": self.family.name}

    @property
    def splits_reasoning(self) -> bool:
        """Whether thinking is already out of `content`; pipelines.answer asks."""
        return True

    @cached_property
    def served(self) -> ServedModel:
        """The model on its server, with kept-alive connections."""
        key = self.api_key.get_secret_value() if self.api_key else ""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        upstream = Upstream(self.url, api_key=key, headers=headers, timeout=self.timeout or 300.0)
        return ServedModel(upstream, self.engine, self.model, self.context)

    def reached(self, *, headers: Mapping[str, str], path: str = "", keep_alive: str = "") -> Self:
        """The same model, with these headers, at this path and kept loaded for so long."""
        found: dict[str, Any] = {"headers": {name: SecretStr(value) for name, value in headers.items()}}
        if path:
            found["engine"] = replace(self.engine, path="/" + path.lstrip("/"))
        return self.model_copy(update=found | {"keep_alive": keep_alive})

    async def load(self, keep_alive: str | float | None) -> bool:
        """Have the server load the model, or unload it; False where it cannot be asked to. Raises ModelUnavailable."""
        if self.engine.load is None:
            return False
        await self.engine.load(self.served.upstream, self.model, self.keep_alive if keep_alive is None else keep_alive)
        return True

    @property
    def refuses_tools(self) -> bool:
        """Whether the server has refused tools, which are left out since."""
        return self.served.refuses_tools

    def stream_deltas(
        self, messages: Sequence[BaseMessage], *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer without LangChain around it. Closing the generator stops the server."""
        return self.served.answer(self.request(messages, stop, **arguments))

    def resume(
        self, messages: Sequence[BaseMessage], thoughts: str, *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Continue with the answer after these thoughts, their end closed. Raises NotImplementedError if impossible."""
        return self.served.resume(self.request(messages, stop, **arguments), thoughts)

    async def window(self) -> int:
        """Tokens of the server's real context window, asked once; 0 if it does not say."""
        return await self.served.window()

    async def names(self) -> list[str]:
        """Models the server has. Raises ModelUnavailable."""
        return await self.served.names()

    def request(
        self, messages: Sequence[BaseMessage | Message], stop: Sequence[str] | None = None, **options: Any
    ) -> Request:
        """What is asked: call arguments over this model's fields over its family's, which guards its sampling."""
        known = {name: options.pop(name) for name in list(options) if name in Request.__slots__}
        for name in ("temperature", "max_tokens"):
            known.setdefault(name, getattr(self, name))
        guarded = self.family.guards_sampling and not (self.free_sampling or options.pop("free_sampling", False))
        for name in ("temperature", "top_p"):
            if known.get(name) is None or guarded:
                known[name] = getattr(self.family, name)
        extra = {**(known.pop("extra", None) or {}), **{k: v for k, v in options.items() if k not in _NOT_SENT}}
        known.setdefault("model", self.model)
        known.setdefault("profile", self.family)
        known.setdefault("context", self.context)
        known.setdefault("keep_alive", self.keep_alive or None)
        known["stop"] = (*(stop or self.stop or ()), *self.family.stop)
        return Request(messages=plain_messages(messages, self.family), extra=extra, **known)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.stream_deltas(messages, stop=stop or (), **kwargs)) as stream:
            async for delta in stream:
                chunk = ChatGenerationChunk(message=message_chunk(delta, self.model, self._llm_type))
                if run_manager is not None and run_manager.handlers and delta.content:
                    await run_manager.on_llm_new_token(delta.content, chunk=chunk)
                yield chunk

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream an answer. Where nobody listens (no callbacks, no tracing) LangChain's work per chunk is left out."""
        if self._watched(config):
            async for chunk in super().astream(input, config, stop=stop, **kwargs):
                yield chunk
            return
        messages = self._convert_input(input).to_messages()
        run, provider = f"lc_run--{uuid4()}", self._llm_type
        async with aclosing(self.stream_deltas(messages, stop=stop or (), **kwargs)) as deltas:
            async for delta in deltas:
                yield message_chunk(delta, self.model, provider, run)

    def _watched(self, config: RunnableConfig | None) -> bool:
        """Whether anything wants to see a run: then LangChain does all that it does around one."""
        if self.rate_limiter is not None or self.output_version is not None or self.disable_streaming:
            return True
        found = ensure_config(config)
        return bool(AsyncCallbackManager.configure(found.get("callbacks"), self.callbacks, self.verbose).handlers)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole: AIMessageChunk | None = None
        async for chunk in self._astream(messages, stop, **kwargs):
            piece = cast(AIMessageChunk, chunk.message)
            whole = piece if whole is None else whole + piece
        if whole is None:
            raise ModelUnavailable(f"the model server at {self.url} sent an answer without a word")
        return ChatResult(generations=[ChatGeneration(message=whole_message(whole))])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._agenerate(messages, stop, **kwargs)).result()

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = self._astream(messages, stop, **kwargs)
        with ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:
            try:
                while True:
                    chunk = pool.submit(runner.run, cast(Any, anext(stream, None))).result()
                    if chunk is None:
                        return
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
            finally:
                pool.submit(runner.run, cast(Any, stream).aclose()).result()

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools, in any form LangChain knows; `tool_choice` is auto, none, any, required or a tool's name."""
        formatted = [convert_to_openai_tool(tool) for tool in tools]
        names = [tool["function"]["name"] for tool in formatted]
        choice: Any = "required" if tool_choice == "any" else tool_choice
        if choice in names:
            choice = {"type": "function", "function": {"name": choice}}
        return self.bind(tools=formatted, tool_choice=choice, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=f"deepwell-{self.engine.name}",
            ls_model_name=kwargs.get("model", self.model),
            ls_model_type="chat",
        )
        if (temperature := kwargs.get("temperature", self.temperature)) is not None:
            params["ls_temperature"] = temperature
        if (max_tokens := kwargs.get("max_tokens", self.max_tokens)) is not None:
            params["ls_max_tokens"] = max_tokens
        if stop or self.stop:
            params["ls_stop"] = stop or self.stop
        return params


_NOT_SENT = frozenset({"ls_structured_output_format", "stream_usage", "strict", "output_version"})
