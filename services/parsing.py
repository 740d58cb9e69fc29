"""Parsing in child processes with limits, so that no document can hang, kill or empty the process that asked for it.

A child is `python -m services.parsing`: it reads requests and writes answers as JSON lines over pipes, and parses one
document after another (`services.parsing_child`). The parent holds the clock and the scales; the child has no secrets
in its environment and, where the system allows it, no network.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines import errors
from pipelines.errors import RagError, Unavailable, UnreadableDocument

Progress = Callable[[int, int | None], None]

#: seconds between two looks at the memory of a child
_LOOK = 0.1
#: documents after which a child is replaced, so that what its parsers leak does not add up
_RECYCLE = 200
#: a child that keeps more than this share of the limit after a document is replaced
_BLOATED = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one document may take."""

    #: seconds of wall time
    timeout: float = 120.0
    #: MiB of resident memory; the address space gets the same limit where the system enforces one
    memory_mb: int = 2048
    #: MiB of parsed text
    output_mb: int = 512


class _Died(Exception):
    """The child ended without an answer."""


class Parser:
    """A pool of parser processes. Belongs to one event loop; `close` it in the end, or use it with `async with`."""

    def __init__(
        self,
        *,
        processes: int = 1,
        timeout: float = 120.0,
        memory_mb: int = 2048,
        output_mb: int = 512,
        recycle_after: int = _RECYCLE,
    ) -> None:
        """`timeout` in seconds and the MiB are for one document each; `processes` documents are parsed at once."""
        self._limits = Limits(timeout=timeout, memory_mb=memory_mb, output_mb=output_mb)
        self._closed = False
        self._recycle_after = recycle_after
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    async def __aenter__(self) -> "Parser":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def parse(
        self,
        path: Path,
        out: Path,
        progress: Progress,
        *,
        name: str = "",
        password: str = "",
        ocr: bool = True,
        tables: bool = False,
    ) -> int:
        """Write the pages of `path` to `out`, one JSON object a line with the fields of Page; return their number.

        `out` appears only when it is whole; beside it notes.json, if there is something to note. `progress` is called
        at most 20 times a second with pages done and, if known, pages in all.
        `name` is what the document is called, if the file is called otherwise; its suffix helps to find the loader.
        A child that dies is replaced and the document tried once more. Raises NotFound, UnsupportedDocument,
        StorageFull, Unavailable if the pool was closed, LockedDocument for a password that is missing or wrong, and
        UnreadableDocument for a file that is damaged or takes more than its limits.
        """
        wanted = {"ocr": "on" if ocr else "off", "tables": "on" if tables else "off"}
        request = _request(path, out, name or path.name) | {"password": password} | wanted
        return await self._ask(request, progress)

    async def draw(self, path: Path, out: Path, number: int, *, name: str = "") -> None:
        """Write page `number` as PNG to `out`, and beside it, as .json, where its words stand (a Layout).

        Raises NotFound for a page that is not there, and what `parse` raises.
        """
        await self._ask(_request(path, out, name or path.name) | {"page": str(number)}, lambda *_: None)

    async def _ask(self, request: dict[str, str], progress: Progress) -> int:
        deaths: list[str] = []
        async with self._slots:
            while len(deaths) < 2:
                if self._closed:
                    raise Unavailable("the parsers are being shut down: the document is parsed when the job resumes")
                try:
                    async with self._child() as child:
                        return await child.parse(request, progress)
                except _Died as death:
                    deaths.append(str(death))
        raise UnreadableDocument(
            f"{request['name']} ended its parser twice ({', '.join(deaths)}): it is damaged, or needs more than "
            f"{self._limits.memory_mb} MiB"
        )

    async def close(self) -> None:
        """End every child. Documents still being parsed end with Unavailable."""
        self._closed = True
        for child in (*self._idle, *self._busy):
            await child.end()
        self._idle.clear()

    def pids(self) -> list[int]:
        """Process ids of the children, for the supervisor's listing."""
        return [child.pid for child in (*self._idle, *self._busy)]

    @asynccontextmanager
    async def _child(self) -> AsyncIterator["_Child"]:
        """A child of our own for one document; it goes back to the pool only if it answered and stayed small."""
        child = self._idle.pop() if self._idle else await _Child.start(self._limits)
        self._busy.add(child)
        try:
            yield child
        finally:
            self._busy.discard(child)
            if child.healthy and child.documents < self._recycle_after:
                self._idle.append(child)
            else:
                await child.end()


class _Child:
    """One parser process."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits) -> None:
        self._process = process
        self._limits = limits
        self._verdict = ""
        self.pid = process.pid
        self.documents = 0
        self.healthy = True

    @classmethod
    async def start(cls, limits: Limits) -> "_Child":
        """Start a child with an environment of its own: no secrets, no proxies."""
        root = Path(__file__).parents[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.parsing", json.dumps(_as_dict(limits)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(root)}, cwd="/", start_new_session=True,
        )  # fmt: skip
        return cls(process, limits)

    async def parse(self, request: dict[str, str], progress: Progress) -> int:
        """Have one document parsed. Raises _Died if the process ends, and what the document deserves."""
        self.healthy = False  # until it has answered
        self.documents += 1
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(self._limits.timeout) as clock:
                answer = await self._converse(request, progress, clock)
        except TimeoutError:
            raise UnreadableDocument(
                f"{request['name']} took more than {self._limits.timeout:g} s to parse: split it, or raise "
                "ingest.parse_timeout"
            ) from None
        except _Died:
            if self._verdict:
                raise UnreadableDocument(f"{request['name']} {self._verdict}") from None
            raise
        finally:
            watch.cancel()
            if not self.healthy:
                await self.end()
        self.healthy = self._resident() < _BLOATED * self._limits.memory_mb
        if "error" in answer:
            raise _error(answer)
        return int(answer["done"])

    async def _converse(self, request: dict[str, str], progress: Progress, clock: asyncio.Timeout) -> dict[str, Any]:
        """Send the request and read lines until the answer. OCR of a page may ask for more time, and gives it back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()
            while line := await self._process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if "pages" in answer:
                    progress(answer["pages"], answer["of"])
                elif "extend" in answer:
                    clock.reschedule((clock.when() or 0.0) + answer["extend"])
                else:
                    self.healthy = True
                    return answer
        except ConnectionError:
            pass
        raise _Died(_reason(await self._process.wait()))

    async def _watch(self) -> None:
        """Kill the child when its resident memory passes the limit."""
        while True:
            await asyncio.sleep(_LOOK)
            if self._resident() > self._limits.memory_mb:
                self._verdict = (
                    f"needs more than {self._limits.memory_mb} MiB to be parsed: split it, or raise "
                    "ingest.parse_memory_mb"
                )
                self._kill()
                return

    def _resident(self) -> float:
        """Resident memory in MiB; 0 if the process is gone."""
        with suppress(psutil.Error):
            return float(psutil.Process(self.pid).memory_info().rss / (1 << 20))
        return 0.0

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.healthy = False
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()


def _request(path: Path, out: Path, name: str) -> dict[str, str]:
    return {"path": str(path.absolute()), "out": str(out.absolute()), "name": name}


def _as_dict(limits: Limits) -> dict[str, float]:
    return {"timeout": limits.timeout, "memory_mb": limits.memory_mb, "output_mb": limits.output_mb}


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _error(answer: dict[str, Any]) -> RagError:
    """The error a child reported, as the class it names."""
    kind = getattr(errors, str(answer["error"]), UnreadableDocument)
    error: RagError = kind(answer["message"])
    return error


if __name__ == "__main__":
    from services.parsing_child import serve

    serve(json.loads(sys.argv[1]))
