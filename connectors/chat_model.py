"""Our chat model: a LangChain `BaseChatModel` over any model server, cheap per chunk, thinking separated.

A connector describes its server as an `Engine`: how a request is written and how an event is read. The rest is here:
sampling by the model's profile, thinking in `additional_kwargs["reasoning_content"]` whatever the server calls it,
no reasoning of earlier turns upstream, errors in our tree, usage and finish reason on the last chunk.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, cast

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from connectors.engine import Engine, Request, usage_metadata, whole_message
from connectors.refusals import refusal
from connectors.upstream import Answer, Upstream
from connectors.wire import plain_messages
from pipelines.delta import Delta, separate
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.profiles import Profile, profile_for
from pipelines.reasoning import ReasoningParser


class ServedChat(BaseChatModel):
    """A chat model behind HTTP. Extra call arguments: those of `Request` from `max_tokens` on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    url: str
    model: str = Field(alias="model")
    engine: Engine = Field(exclude=True)
    #: what the model's family needs (`profile` is LangChain's name for something else)
    family: Profile = Field(default_factory=lambda: profile_for(""))
    api_key: SecretStr | None = None
    timeout: float | None = 300.0
    #: tokens of the window asked for, where the server lets a request say so; 0 leaves it to the server
    context: int = 0
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    max_retries: int = 0
    #: a client's temperature and top_p count even where the profile says otherwise
    free_sampling: bool = False

    _upstream: Upstream | None = PrivateAttr(default=None)
    _window: int | None = PrivateAttr(default=None)
    _separates: bool | None = PrivateAttr(default=None)
    _keeps_budget: bool | None = PrivateAttr(default=None)

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

    def upstream(self) -> Upstream:
        """The server, with its kept-alive connections."""
        if self._upstream is None:
            key = self.api_key.get_secret_value() if self.api_key else ""
            self._upstream = Upstream(self.url, api_key=key, timeout=self.timeout or 300.0)
        return self._upstream

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Stream the answer to a request. Closing the generator stops the server.

        A limit of thinking tokens that the server was not started for is left out from then on, and kept by us.
        Raises ModelUnavailable, TooManyRequests, BadRequest.
        """
        in_thinking = await self.begins_in_thinking(request)
        try:
            async with aclosing(self._answer(request, in_thinking)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except BadRequest as error:  # before the first delta: vLLM refuses in the status, or, streaming, after a 200
            budget = request.profile.engine(self.engine.name).budget
            if not budget or budget not in str(error) or self._keeps_budget is False:
                raise
        self._keeps_budget = False
        async with aclosing(self._answer(request, in_thinking)) as deltas:
            async for delta in deltas:
                yield delta

    async def _answer(self, request: Request, in_thinking: bool) -> AsyncGenerator[Delta, None]:
        async with await self.ask(request) as answer, aclosing(self._read(answer, self.engine.read)) as events:
            async for delta in separate(events, ReasoningParser(starts_in_thinking=in_thinking)):
                yield delta

    async def ask(self, request: Request) -> Answer:
        """Send a request; the server's 200, its body still to be read. Raises what a refusal means."""
        body = self.engine.write(request)
        if self._keeps_budget is False:
            body.pop(request.profile.engine(self.engine.name).budget, None)
        answer = await self.upstream().request("POST", self.engine.path, orjson.dumps(body))
        if answer.status // 100 == 2:
            return answer
        with contextlib.closing(answer):
            raise await self._refused(answer, await answer.body())

    async def begins_in_thinking(self, request: Request) -> bool:
        """Whether `content` begins inside the thinking: the template opened it, and the server does not separate it.

        Asked of the server once where it can be asked; elsewhere believed until thinking comes in a field of its own.
        """
        if not request.profile.starts_in_thinking:
            return False
        if self._separates is None and self.engine.asks_separation:
            with contextlib.suppress(ModelUnavailable):  # the request itself is going to say what is wrong
                self._separates = await self.engine.asks_separation(self.upstream(), self.model)
        return not (self.engine.separates if self._separates is None else self._separates)

    def stream_deltas(
        self, messages: Sequence[BaseMessage], *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer without LangChain around it. Closing the generator stops the server."""
        request = self.request(messages, stop, **arguments)
        switch = request.profile.engine(self.engine.name).thinking_off
        if request.thinking is False and request.profile.thinks == "always" and not switch:
            return self._skip_thinking(messages, request, stop, arguments)
        return self.deltas(request)

    async def _skip_thinking(
        self, messages: Sequence[BaseMessage], request: Request, stop: Sequence[str], arguments: dict[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        """Close the thinking before it begins, in the form R1 itself uses when it skips it.

        A server that cannot do that lets the model think.
        """
        try:
            async with aclosing(self.resume(messages, "", stop=stop, **arguments)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except NotImplementedError:
            pass
        async with aclosing(self.deltas(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def resume(
        self, messages: Sequence[BaseMessage], thoughts: str, *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Continue with the answer after these thoughts, their end closed. Raises NotImplementedError if impossible."""
        if self.engine.resume is None:
            raise NotImplementedError(f"{self.engine.name} cannot continue an answer")
        path, body = await self.engine.resume(self.upstream(), self.request(messages, stop, **arguments), thoughts)
        async with await self.upstream().request("POST", path, orjson.dumps(body)) as answer:
            if answer.status in {404, 405, 501}:
                raise NotImplementedError(f"the model server at {self.url} has no {path} ({answer.status})")
            if answer.status // 100 != 2:
                raise await self._refused(answer, await answer.body())
            async with aclosing(self._read(answer, self.engine.read_resumed or self.engine.read)) as events:
                async for delta in separate(events, ReasoningParser()):
                    yield delta

    async def window(self) -> int:
        """Tokens of the server's real context window, asked once; 0 if it does not say."""
        if self._window is None:
            found = await self.engine.window(self.upstream(), self.model) if self.engine.window else 0
            self._window = min(found, self.context) if found and self.context and self.engine.asks_window else found
            self._window = self._window or self.context
        return self._window

    async def names(self) -> list[str]:
        """Models the server has. Raises ModelUnavailable."""
        async with await self.upstream().request("GET", self.engine.models_path, timeout=10.0) as answer:
            if answer.status // 100 != 2:
                raise refusal(answer.status, answer.headers, await answer.body(), url=self.url, model=self.model)
            return self.engine.names(await answer.json())

    async def _read(self, answer: Answer, read: Callable[[dict[str, Any]], Delta]) -> AsyncGenerator[Delta, None]:
        ended = False
        events = answer.events() if self.engine.framing == "sse" else answer.lines()
        async for event in events:
            if event == b"[DONE]":
                ended = True
                break
            found = self._decode(event)
            delta = read(found)
            if delta.error:
                raise self._failed(found, delta.error)
            ended = ended or bool(delta.finish_reason)
            if delta.reasoning:
                self._separates = True
            yield delta
        if not ended:
            raise ModelUnavailable(f"the model server at {self.url} closed the stream before the answer's end")
        await answer.finish()

    def _failed(self, event: dict[str, Any], error: str) -> Exception:
        """What an error event means; vLLM refuses a streaming request with one, and its `code` is the status."""
        told = event.get("error")
        code = told.get("code") if isinstance(told, dict) else None
        if isinstance(code, int) and 400 <= code < 500:
            return refusal(code, {}, orjson.dumps(event), url=self.url, model=self.model)
        return ModelUnavailable(f"the model server at {self.url} failed while answering: {error}")

    def _decode(self, event: bytes) -> dict[str, Any]:
        try:
            found = orjson.loads(event)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise ModelUnavailable(
                f"the model server at {self.url} sent something that is no event: "
                f"{event[:120].decode('utf-8', 'replace')!r}"
            )
        return found

    async def _refused(self, answer: Answer, body: bytes) -> Exception:
        names = ""
        if answer.status == 404:
            try:
                names = ", ".join((await self.names())[:20])
            except (ModelUnavailable, TypeError, KeyError):
                names = ""
        return refusal(answer.status, answer.headers, body, url=self.url, model=self.model, names=names)

    def request(self, messages: Sequence[BaseMessage], stop: Sequence[str] | None = None, **options: Any) -> Request:
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
        known["stop"] = (*(stop or self.stop or ()), *self.family.stop)
        return Request(messages=plain_messages(messages, self.family), extra=extra, **known)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.deltas(self.request(messages, stop, **kwargs))) as stream:
            async for delta in stream:
                chunk = self._chunk(delta)
                if run_manager is not None and run_manager.handlers and delta.content:
                    await run_manager.on_llm_new_token(delta.content, chunk=chunk)
                yield chunk

    def _chunk(self, delta: Delta) -> ChatGenerationChunk:
        message = AIMessageChunk(content=delta.content)
        if delta.reasoning:
            message.additional_kwargs["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            message = AIMessageChunk(content=delta.content, tool_call_chunks=cast(Any, delta.tool_calls))
        if delta.usage is not None:
            message.usage_metadata = usage_metadata(delta.usage)
        if delta.finish_reason:
            message.response_metadata = {
                "finish_reason": delta.finish_reason,
                "model_name": self.model,
                "model_provider": f"deepwell-{self.engine.name}",
            }
            message.chunk_position = "last" if delta.last else None
        return ChatGenerationChunk(message=message)

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
