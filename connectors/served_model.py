"""One model behind a model server: requests sent, answers read, what the server can do found out.

What a server sends is taken as it is: thinking apart or not, a limit of thinking accepted or refused, in the status or
in the first event. Whatever it is, the same deltas come out.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from connectors.engine import Engine, Request
from connectors.refusals import refusal
from connectors.upstream import Answer, Upstream
from pipelines.budget import estimate_tokens
from pipelines.delta import Delta, separate
from pipelines.errors import BadRequest, ModelUnavailable, RagError
from pipelines.reasoning import ReasoningParser
from pipelines.stops import until_stop

#: words of vLLM ('"auto" tool choice requires --enable-auto-tool-choice …'), Ollama and llama.cpp
_NO_TOOLS = re.compile(r"--enable-auto-tool-choice|--tool-call-parser|does not support tools|tools param requires")


class ServedModel:
    """A model by name on a server of one kind. All calls raise ModelUnavailable, TooManyRequests, BadRequest."""

    def __init__(self, upstream: Upstream, engine: Engine, model: str, context: int = 0) -> None:
        """`context` is the window asked for in tokens, where the server lets a request say so."""
        self.upstream = upstream
        self.engine = engine
        self.model = model
        self.context = context
        self._window: int | None = None
        self._separates: bool | None = None
        self._asked_separation = 0
        self._keeps_budget: bool | None = None
        #: the server was started without tools, or its model has no template for them
        self.refuses_tools = False
        self._asked_tools = False

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Stream the answer to a request. Closing the generator stops the server.

        A limit of thinking tokens that the server was not started for is left out from then on, and kept by us; so
        are tools.
        Raises ModelUnavailable, TooManyRequests, BadRequest.
        """
        in_thinking = await self.begins_in_thinking(request)
        try:
            async with aclosing(self._deltas(request, in_thinking)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except BadRequest as error:  # in the first event of a 200, before the first delta: vLLM while streaming
            if not self.without_extras(request, error):
                raise
        async with aclosing(self._deltas(request, in_thinking)) as deltas:
            async for delta in deltas:
                yield delta

    def without_extras(self, request: Request, error: Exception) -> bool:
        """Whether a refusal is about the limit of thinking tokens or about tools, so that the same without may pass."""
        if request.tools and not self.refuses_tools and isinstance(error, BadRequest) and _NO_TOOLS.search(str(error)):
            self.refuses_tools = True
            return True
        budget = request.profile.engine(self.engine.name).budget
        if not budget or not isinstance(error, BadRequest) or budget not in str(error) or self._keeps_budget is False:
            return False
        self._keeps_budget = False
        return True

    def relayable(self, request: Request) -> bool:
        """Whether the answer's bytes can go to a client as they come; else it is read here, event by event."""
        plain = self.engine.framing == "sse" and not request.tools
        return plain and not self._skips(request) and not self._stops(request)

    def note_separation(self) -> None:
        """Remember that thinking came in a field of its own."""
        self._separates = True

    def answer(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Stream the answer, without thinking where that is asked for and can be had."""
        return self._skip_thinking(request) if self._skips(request) else self.deltas(request)

    def _skips(self, request: Request) -> bool:
        """Whether thinking is to be closed by us before it begins. That is a completion of text: no tools in it."""
        if request.tools:
            return False
        switch = request.profile.engine(self.engine.name).thinking_off
        return request.thinking is False and request.profile.thinks == "always" and not switch

    def _stops(self, request: Request) -> list[str]:
        """The stop strings that are looked for here."""
        if request.profile.thinks == "never":
            return []
        return [stop for stop in request.stop if stop not in request.profile.stop]

    async def _skip_thinking(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Close the thinking before it begins, in the form R1 itself uses when it skips it.

        A server that cannot do that lets the model think.
        """
        try:
            async with aclosing(self.resume(request, "")) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except NotImplementedError:
            pass
        async with aclosing(self.deltas(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def resume(self, request: Request, thoughts: str) -> AsyncGenerator[Delta, None]:
        """Continue with the answer after these thoughts, their end closed. Raises NotImplementedError if impossible."""
        if self.engine.resume is None:
            raise NotImplementedError(f"{self.engine.name} cannot continue an answer")
        path, body = await self.engine.resume(self.upstream, request, thoughts)
        async with await self.upstream.request("POST", path, orjson.dumps(body)) as answer:
            if answer.status in {404, 405, 501}:
                raise NotImplementedError(f"the model server at {self.upstream.url} has no {path} ({answer.status})")
            if answer.status // 100 != 2:
                raise await self._refused(answer, await answer.body())
            async with aclosing(self._read(answer, self.engine.read_resumed or self.engine.read)) as events:
                async for delta in separate(events, ReasoningParser()):
                    yield delta

    async def window(self) -> int:
        """Tokens of the server's real context window, asked once; 0 if it does not say."""
        if self._window is None:
            found = await self.engine.window(self.upstream, self.model) if self.engine.window else 0
            self._window = min(found, self.context) if found and self.context and self.engine.asks_window else found
            self._window = self._window or self.context
        return self._window

    @property
    def separates(self) -> bool:
        """Whether the server was seen to separate thinking from the answer."""
        return bool(self._separates)

    async def names(self) -> list[str]:
        """Models the server has. Raises ModelUnavailable."""
        async with await self.upstream.request("GET", self.engine.models_path, timeout=10.0) as answer:
            if answer.status // 100 != 2:
                raise refusal(
                    answer.status, answer.headers, await answer.body(), url=self.upstream.url, model=self.model
                )
            return self.engine.names(await answer.json())

    async def ask(self, request: Request) -> Answer:
        """Send a request; the server's 200, its body still to be read. Raises what a refusal means."""
        if request.tools and not self._asked_tools and self.engine.takes_tools is not None:
            self.refuses_tools = not await self.engine.takes_tools(self.upstream)
            self._asked_tools = True
        while True:
            body = self.engine.write(request)
            if self._keeps_budget is False:
                body.pop(request.profile.engine(self.engine.name).budget, None)
            if self.refuses_tools:
                for name in ("tools", "tool_choice", "parallel_tool_calls"):
                    body.pop(name, None)
            answer = await self.upstream.request("POST", self.engine.path, orjson.dumps(body))
            if answer.status // 100 == 2:
                return answer
            with contextlib.closing(answer):
                error = await self._refused(answer, await answer.body())
            if not self.without_extras(request, error):
                raise error

    async def begins_in_thinking(self, request: Request) -> bool:
        """Whether `content` begins inside the thinking: the template opened it, and the server does not separate it.

        Asked of the server once where it can be asked; elsewhere believed until thinking comes in a field of its own.
        """
        if not request.profile.starts_in_thinking:
            return False
        if self._separates is None and self.engine.asks_separation and self._asked_separation < 3:
            self._asked_separation += 1  # a server that does not answer it is not asked for ever
            with contextlib.suppress(ModelUnavailable):  # the request itself is going to say what is wrong
                self._separates = await self.engine.asks_separation(self.upstream, self.model)
        return not (self.engine.separates if self._separates is None else self._separates)

    async def _deltas(self, request: Request, in_thinking: bool) -> AsyncGenerator[Delta, None]:
        stops = self._stops(request)
        asked = replace(request, stop=request.profile.stop) if stops else request
        async with await self.ask(asked) as answer, aclosing(self._read(answer, self.engine.read)) as events:
            deltas = separate(events, ReasoningParser(starts_in_thinking=in_thinking))
            if stops:
                prompt = sum(estimate_tokens(str(message.get("content"))) for message in request.messages)
                deltas = until_stop(deltas, stops, prompt)
            async for delta in deltas:
                yield delta

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
                raise self.failed(found, delta.error)
            ended = ended or bool(delta.finish_reason)
            if delta.reasoning:
                self._separates = True
            yield delta
        if not ended:
            raise self.unfinished()
        await answer.finish()

    def unfinished(self) -> ModelUnavailable:
        """The error for a stream that just stops."""
        return ModelUnavailable(f"the model server at {self.upstream.url} closed the stream before the answer's end")

    def failed(self, event: dict[str, Any], error: str) -> RagError:
        """What an error event means; vLLM refuses a streaming request with one, and its `code` is the status."""
        told = event.get("error")
        code = told.get("code") if isinstance(told, dict) else None
        if isinstance(code, int) and 400 <= code < 500:
            return refusal(code, {}, orjson.dumps(event), url=self.upstream.url, model=self.model)
        return ModelUnavailable(f"the model server at {self.upstream.url} failed while answering: {error}")

    def _decode(self, event: bytes) -> dict[str, Any]:
        try:
            found = orjson.loads(event)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise ModelUnavailable(
                f"the model server at {self.upstream.url} sent something that is no event: "
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
        return refusal(answer.status, answer.headers, body, url=self.upstream.url, model=self.model, names=names)
