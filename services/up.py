"""`deepwell up`: every process of the platform on this machine, started, watched, and ended together."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

import httpx

from pipelines.errors import Conflict, RagError, Unavailable
from services.lock import DirectoryLock, holder
from services.models import changed, choice_file, chosen
from services.processes import write_states
from services.settings import Settings
from services.supervisor import Child, Children

#: beside the checkout, or within the installed package
SAMPLES = next(
    (p for p in (Path(__file__).parents[1] / "samples", Path(__file__).parent / "samples") if p.is_dir()), None
)
QUESTION = "How many days of paid annual leave do full-time staff have at Tarnwick?"
EXIT_DOCUMENTS, EXIT_UNREACHABLE = 3, 4
#: seconds of waiting for a part after which it is named, and after which there is no more waiting
SILENT, GIVE_UP = 5.0, 120.0
#: glibc's heaps: with one for each of many threads a worker kept 200 MiB more after a load than with two
MEMORY = {"MALLOC_ARENA_MAX": "2"}
#: times a child may end before it first serves
STARTS = 3


class Platform:
    """The processes for one data directory: vector database, model server, HTTP service, worker."""

    def __init__(self, settings: Settings, announce: TextIO | None = None) -> None:
        """`announce` is where one JSON object with addresses and key is written, once everything is ready."""
        self.settings, self.announce = settings, announce
        self.data_dir = settings.data_dir.absolute()
        self.children = Children(self.data_dir / "logs")
        self.ports = {"milvus": 0, "model": 0}
        self.url = ""

    async def run(self, samples: bool, demo: bool) -> int:
        """Serve until SIGTERM or SIGINT (or, for a demo, until one question is answered). Returns the exit code."""
        began = time.monotonic()
        port = listening_port(self.settings.server.host, self.settings.server.port)
        with DirectoryLock(self.data_dir) as lock:
            lock.note(port)
            self.url = reachable(self.settings.server.host, port)
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            stopping = asyncio.create_task(stop.wait())
            work = asyncio.create_task(self._serve(port, samples, demo, began))
            try:
                await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
                return work.result() if work.done() else 0
            finally:
                work.cancel()
                await asyncio.wait({work})
                stopping.cancel()
                await self.children.stop()
                (self.data_dir / "server.json").unlink(missing_ok=True)

    async def _serve(self, port: int, samples: bool, demo: bool, began: float) -> int:
        names = await self._start(port)
        watching = asyncio.create_task(self._watch())
        try:
            await self._started(names)
            await self._until_ready()
            address = {"url": self.url, "host": self.settings.server.host, "pid": os.getpid()}
            (self.data_dir / "server.json").write_text(json.dumps(address))
            say(f"ready after {time.monotonic() - began:.1f} s")
            whole = not samples or await asyncio.to_thread(show_samples, self.data_dir)
            await asyncio.to_thread(self._say_addresses, samples)
            if demo:
                return 0 if whole else EXIT_DOCUMENTS
            await watching
        except RagError as error:
            say(f"deepwell: {error}")
            return EXIT_UNREACHABLE
        finally:
            watching.cancel()
        return 0

    async def _started(self, names: list[str]) -> None:
        """Wait until every child serves. Raises Unavailable for one that ends again and again before it ever does."""
        waiting = asyncio.gather(*(self.children.ready(name) for name in names))
        while not waiting.done():
            for state in self.children.states():
                if state.restarts >= STARTS and state.state != "running":
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                    log = self.data_dir / "logs" / f"{state.name}.log"
                    raise Unavailable(f"{state.name} does not start: {state}. Log: {log}")
            await asyncio.wait({waiting}, timeout=0.5)
        await waiting

    async def _start(self, port: int) -> list[str]:
        """Start every child that the settings ask for, all at once. Returns their names."""
        settings, children = self.settings, []
        environment = settings.environment() | {
            "DEEPWELL_DATA_DIR": str(self.data_dir),
            "DEEPWELL_SERVER__PORT": str(port),
        }
        if not settings.index.url:
            self.ports["milvus"] = listening_port("127.0.0.1", 0)
            environment["DEEPWELL_INDEX__URL"] = f"http://127.0.0.1:{self.ports['milvus']}"
            children.append(self._milvus())
        if settings.chat.server == "llamacpp" and not settings.chat.url:
            self.ports["model"] = listening_port("127.0.0.1", 0)
            environment["DEEPWELL_CHAT__URL"] = f"http://127.0.0.1:{self.ports['model']}"
            children.append(self._model())
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DEEPWELL_")}  # noqa: TID251
        environment = MEMORY | inherited | environment
        children.append(self._python("service", "services.app", environment, http_ready(f"{self.url}/healthz")))
        children.append(self._python("worker", "services.worker", environment, self._worker_ready))
        for child in children:
            await self.children.start(child)
        return [child.name for child in children]

    def _python(
        self, name: str, module: str, environment: dict[str, str], ready: Callable[[], Awaitable[bool]]
    ) -> Child:
        return Child(name=name, command=(sys.executable, "-P", "-m", module), environment=environment, ready=ready)

    def _milvus(self) -> Child:
        from connectors.milvus_client import lite_command

        port = self.ports["milvus"]
        return Child(name="milvus", command=lite_command(self.data_dir / "milvus", port), ready=listens(port))

    def _model(self) -> Child:
        from connectors.models.llamacpp import server_command

        model, wanted, port = chosen(self.settings.data_dir), self.settings.chat, self.ports["model"]
        command = server_command(
            model.path,
            port,
            context=wanted.context,
            threads=wanted.threads,
            parallel=wanted.parallel,
            alias=model.id,
        )
        ready = http_ready(f"http://127.0.0.1:{port}/health")
        return Child(name="model", command=command, ready=ready, start_timeout=600)

    async def _worker_ready(self) -> bool:
        return holder(self.data_dir, "worker.lock") is not None

    async def _until_ready(self) -> None:
        """Wait until a question can be answered, and say for what. Raises Unavailable after two minutes."""
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            began, told = time.monotonic(), ""
            while True:
                response = await client.get(f"{self.url}/readyz")
                if response.status_code == 200:
                    return
                parts = response.json().get("parts", {})
                missing = "; ".join(f"{part}: {state}" for part, state in parts.items() if state != "ok")
                if time.monotonic() - began > GIVE_UP:
                    raise Unavailable(f"not ready after two minutes: {missing}")
                if missing != told and time.monotonic() - began > SILENT:
                    say(f"waiting for {missing}")
                    told = missing
                await asyncio.sleep(0.2)

    async def _watch(self) -> None:
        """Write down how the processes are, and follow `deepwell models use`."""
        chosen_in = str(choice_file(self.data_dir))
        choice, written = changed(chosen_in), None
        while True:
            states = {state.name: "ok" if state.state == "running" else str(state) for state in self.children.states()}
            if states != written:
                write_states(self.data_dir, states)
                written = states
            if self.ports["model"] and (now := changed(chosen_in)) != choice:
                choice = now
                await self.children.start(self._model())
            await asyncio.sleep(0.5)

    def _say_addresses(self, samples: bool) -> None:
        key = (self.data_dir / "api-key").read_text().strip()
        model = httpx.get(f"{self.url}/readyz", trust_env=False).json()["model"]
        if self.announce:
            found = {"url": self.url, "openai_url": f"{self.url}/v1", "api_key": key, "model": model}
            self.announce.write(json.dumps(found | {"data_dir": str(self.data_dir), "pid": os.getpid()}) + "\n")
            self.announce.flush()
        first = "deepwell-samples" if samples else "deepwell"
        say(
            f"""
OpenAI-compatible address   {self.url}/v1
API key                     {key}
Model ids                   {model} (plain), {model}-KB for each knowledge base
REST and its description    {self.url}/docs

  curl -N {self.url}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
       -d '{{"model": "{first}", "stream": true, "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
  deepwell add PATH… --kb NAME     deepwell ask QUESTION --kb NAME     deepwell status     deepwell endpoint show
"""
        )


def say(text: str) -> None:
    """A line for the person who started it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def reachable(host: str, port: int) -> str:
    """The address on which this machine reaches a service that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def listening_port(host: str, port: int) -> int:
    """The port, if it can be listened on; a free one for 0. Raises Conflict."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port (0: a free one)"
            ) from None
        return int(probe.getsockname()[1])


def listens(port: int) -> Callable[[], Awaitable[bool]]:
    """Whether something accepts connections on a loopback port."""

    async def check() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return check


def http_ready(url: str) -> Callable[[], Awaitable[bool]]:
    """Whether an address answers 200."""

    async def check() -> bool:
        async with httpx.AsyncClient(timeout=4, trust_env=False) as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(url)).status_code == 200
        return False

    return check


def show_samples(data_dir: Path) -> bool:
    """Load samples/ into the knowledge base `samples`, ask one question, show the cited answer.

    False if a document failed or nothing was cited.
    """
    from services.cli.ask import show_event
    from services.cli.client import Api
    from services.cli.documents import expand, follow, upload

    api = Api(data_dir)
    api.ensure_knowledge_base("samples", "About Deepwell and its field")
    documents: list[dict[str, Any]] = [upload(api, "samples", name, file) for name, file in expand(str(SAMPLES or ""))]
    documents = follow(api, "samples", documents, quiet=not sys.stderr.isatty())
    for document in documents:
        if document["state"] != "succeeded":
            say(f"{document['name']}: {document['state']}: {document['error']}")
    chunks, cited = sum(document["chunks"] for document in documents), False
    say(f"knowledge base samples: {len(documents)} documents, {chunks} passages\n\n> {QUESTION}")
    with api.stream("/v1/ask", {"question": QUESTION, "knowledge_bases": ["samples"], "stream": True}) as events:
        for event in events:
            show_event(event, thinking=True)
            cited = cited or bool(event.get("citations"))
    return cited and all(document["state"] == "succeeded" for document in documents)
