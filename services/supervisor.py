"""Child processes that are kept alive: started, watched, restarted with back-off, logged, and ended with us.

Each child leads its own process group, so that what it starts ends with it. On Linux the kernel kills the child when
we die, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG; it follows the thread that started the child, so run `Children`
in the main thread). A child that exits with 78 (EX_CONFIG of sysexits.h) says that no restart will help.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.errors import NotFound, Unavailable

EX_CONFIG = 78
State = Literal["starting", "running", "backing off", "failed", "stopped"]
#: asks the kernel for the death signal, then becomes the command
LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(75)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"cannot start {sys.argv[2]}: {error.strerror}\\n")
    sys.exit(78)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process to keep alive."""

    name: str
    command: Sequence[str]
    #: answers whether the process serves; asked until True, then every `check_every` seconds
    ready: Callable[[], Awaitable[bool]]
    #: the whole environment; None inherits ours
    environment: Mapping[str, str] | None = None
    #: seconds from the start until `ready` must hold
    start_timeout: float = 120.0
    #: seconds between SIGTERM and SIGKILL
    stop_timeout: float = 8.0
    check_every: float = 10.0
    #: checks in a row that may fail before the process is taken for hung and restarted
    checks: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildState:
    """How a child is."""

    name: str
    state: State
    #: why it is not running, "" if it is
    reason: str
    restarts: int
    pid: int | None
    #: last lines it wrote
    log: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


class Children:
    """The child processes of this process. Logs go to `log_dir`/NAME.log."""

    def __init__(self, log_dir: Path, backoff: tuple[float, float] = (0.5, 30.0), healthy_after: float = 60.0) -> None:
        self._log_dir, self._backoff, self._healthy_after = log_dir, backoff, healthy_after
        self._kept: dict[str, _Kept] = {}

    async def start(self, child: Child) -> None:
        """Start a child and keep it alive; one of the same name is stopped first. Returns at once."""
        await self.stop(child.name)
        log = _Log(self._log_dir / f"{child.name}.log")
        self._kept[child.name] = _Kept(child, log, self._backoff, self._healthy_after)

    async def ready(self, name: str, timeout: float | None = None) -> None:
        """Wait until a child serves, `timeout` seconds (its `start_timeout` if None).

        Raises Unavailable, with its last words, when it failed for good or is late; NotFound for an unknown name.
        """
        kept = self._kept.get(name)
        if kept is None:
            raise NotFound(f"there is no child process {name}")
        serving = asyncio.create_task(kept.serving.wait())
        patience = kept.child.start_timeout if timeout is None else timeout
        done, _ = await asyncio.wait({serving, kept.task}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if serving not in done:
            serving.cancel()
            raise Unavailable(f"{name} does not start: {kept.state()}. Log: {kept.log.path}")

    def states(self) -> list[ChildState]:
        """How each child is, in the order of their start."""
        return [kept.state() for kept in self._kept.values()]

    async def stop(self, *names: str) -> None:
        """Stop these children, or all: SIGTERM to the group, SIGKILL after `stop_timeout`; all at the same time."""
        kept = [self._kept[name] for name in names or list(self._kept) if name in self._kept]
        for one in kept:
            one.task.cancel()
        if kept:
            await asyncio.wait({one.task for one in kept})
        for one in kept:
            one.log.close()


class _Kept:
    """One child with the task that keeps it alive."""

    def __init__(self, child: Child, log: "_Log", backoff: tuple[float, float], healthy_after: float) -> None:
        self.child, self.log = child, log
        self._first, self._longest = backoff
        self._healthy_after = healthy_after
        self._state: State = "starting"
        self._reason = ""
        self._restarts = 0
        self._pid: int | None = None
        self.serving = asyncio.Event()
        self.task = asyncio.create_task(self._keep(), name=f"keep {child.name}")

    def state(self) -> ChildState:
        """How it is now."""
        return ChildState(
            name=self.child.name,
            state=self._state,
            reason=self._reason,
            restarts=self._restarts,
            pid=self._pid,
            log=tuple(self.log.tail),
        )

    async def _keep(self) -> None:
        delay = self._first
        try:
            while True:
                self._state, began = "starting", time.monotonic()
                try:
                    status, why = await self._run()
                except OSError as error:  # no process can be made: out of memory, files or processes
                    status, why = None, f"no process can be started: {error}"
                self._reason = why + (f"; it said: {' | '.join(list(self.log.tail)[-3:])}" if self.log.tail else "")
                if status == EX_CONFIG:
                    self._state, self._reason = "failed", self.log.tail[-1] if self.log.tail else why
                    return
                if time.monotonic() - began >= self._healthy_after:
                    delay = self._first
                self._state = "backing off"
                self.log.note(f"{why}; starting again in {delay:g} s")
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._longest)
                self._restarts += 1
        except asyncio.CancelledError:
            self._state, self._reason = "stopped", ""
            raise

    async def _run(self) -> tuple[int | None, str]:
        """Run the process once, until it ends or is hung. Returns its exit code (None if we ended it) and why."""
        self.log.tail.clear()
        process, output, logged = await self._spawn()
        health, exited = asyncio.create_task(self._watch()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({health, exited}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return exited.result(), _ending(exited.result())
            fault = health.exception()
            return None, f"its health check failed: {fault!r}" if fault else health.result()
        finally:
            self.serving.clear()
            health.cancel()
            await _end(process, exited, self.child.stop_timeout)
            await asyncio.wait({logged}, timeout=1.0)  # a grandchild that left the group may hold the pipe
            logged.cancel()
            output.close()
            self._pid = None

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.ReadTransport, "asyncio.Task[None]"]:
        """Start the process; what it writes goes to the log."""
        # A pipe of our own: with asyncio's, `wait` also waits for every grandchild that holds it (gh-119710).
        ours, theirs = os.pipe()
        stream = asyncio.StreamReader()
        output, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *self.child.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=asyncio.subprocess.STDOUT,
                env=None if self.child.environment is None else dict(self.child.environment),
                start_new_session=True,
            )
        except BaseException:
            output.close()
            raise
        finally:
            os.close(theirs)
        self._pid = process.pid
        self.log.note(f"process {process.pid} started")
        return process, output, asyncio.create_task(self.log.take(stream))

    async def _watch(self) -> str:
        """Follow the health of the process; returns when it must be restarted, and why."""
        deadline, pause = time.monotonic() + self.child.start_timeout, 0.05
        while not await self._serves():
            if time.monotonic() > deadline:
                return f"not ready after {self.child.start_timeout:g} s"
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        self._state, self._reason = "running", ""
        self.serving.set()
        missed = 0
        while missed < self.child.checks:
            await asyncio.sleep(self.child.check_every)
            missed = 0 if await self._serves() else missed + 1
        return f"no answer to {missed} checks in a row"

    async def _serves(self) -> bool:
        try:
            return await asyncio.wait_for(self.child.ready(), timeout=5.0)
        except TimeoutError:
            return False


class _Log:
    """NAME.log, kept under `limit` bytes with one older file NAME.log.1, and its last lines."""

    def __init__(self, path: Path, limit: int = 5 << 20, lines: int = 20) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._limit = path, limit
        self.tail: deque[str] = deque(maxlen=lines)
        self._rest = ""
        self._file = path.open("ab")

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Write what comes until the stream ends."""
        while block := await stream.read(65536):
            *lines, self._rest = (self._rest + block.decode("utf-8", "replace")).split("\n")
            self._rest = self._rest[-4096:]
            self.tail.extend(line.rstrip() for line in lines if line.strip())
            self._write(block)
        if self._rest.strip():
            self.tail.append(self._rest.strip())
        self._rest = ""

    def note(self, text: str) -> None:
        """Add a line of ours."""
        self._write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} deepwell: {text}\n".encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, block: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop a child; its last lines stay in `tail`
            if self._file.tell() + len(block) > self._limit:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("ab")
            self._file.write(block)
            self._file.flush()


async def _end(process: asyncio.subprocess.Process, exited: "asyncio.Task[int]", timeout: float) -> None:
    """End the process and its group: politely, then not."""
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 2.0)):
        if not exited.done():
            _signal_group(process.pid, number)
            await asyncio.wait({exited}, timeout=patience)
    _signal_group(process.pid, signal.SIGKILL)  # what it left behind


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _ending(status: int) -> str:
    if status >= 0:
        return f"it ended with exit code {status}"
    hint = ", perhaps for lack of memory" if -status == signal.SIGKILL else ""
    return f"it was killed by {signal.Signals(-status).name}{hint}"
