"""The child side of services.parsing: takes documents from stdin, one JSON object a line, and parses them.

It limits itself before it looks at any document. Everything heavy is imported when the first document asks for it.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from pipelines.errors import RagError, StorageFull, UnreadableDocument

_OPEN_FILES = 64
#: least seconds between two reports of progress
_REPORT = 0.05
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def serve(limits: Mapping[str, float]) -> None:
    """Parse until stdin ends. `limits` has `timeout` in seconds, `memory_mb` and `output_mb`."""
    answers = _own_stdout()
    _confine(limits)
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills a child that is late; this is for a child whose parent is gone.
        signal.setitimer(signal.ITIMER_REAL, limits["timeout"] + 5)
        answer: dict[str, object]
        try:
            answer = {"done": _parse(request, answers, int(limits["output_mb"]) << 20)}
        except RagError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except MemoryError:
            message = f"{request['name']} needs more than {limits['memory_mb']:g} MiB to be parsed: split it"
            answer = {"error": "UnreadableDocument", "message": message}
        except OSError as error:
            answer = _of_os(error, request["name"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(answers, answer)


def _own_stdout() -> IO[str]:
    """The pipe to the parent, taken away from libraries that print to file descriptor 1."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _confine(limits: Mapping[str, float]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    output = int(limits["output_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * output, 2 * output))
    if sys.platform == "linux":
        memory = int(limits["memory_mb"]) << 20
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        _leave_network()


def _leave_network() -> None:
    """Move into a network namespace of our own, which has not even a loopback address; where that is allowed.

    An ordinary user needs a user namespace for it. Loaders never fetch anything; this is for the day one tries.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _parse(request: Mapping[str, str], answers: IO[str], most: int) -> int:
    """Pages of one document into the file asked for; it gets its name only when it is whole."""
    from pipelines import loaders

    path, out, name = Path(request["path"]), Path(request["out"]), request["name"]
    total = loaders.count_pages(path, name)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        written = count = 0
        due = 0.0
        with part.open("w", encoding="utf-8") as file:
            for count, line in enumerate(_lines(path, name), 1):
                written += len(line)
                if written > most:
                    raise UnreadableDocument(f"{name} holds more than {most >> 20} MiB of text: split it")
                file.write(line)
                if time.monotonic() >= due:
                    _say(answers, {"pages": count, "of": total})
                    due = time.monotonic() + _REPORT
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return count


def _lines(path: Path, name: str) -> Iterator[str]:
    from pipelines import loaders

    for page in loaders.load(path, name):
        fields = {"text": page.text, "number": page.number, "title": page.title}
        yield json.dumps(fields, ensure_ascii=False) + "\n"


def _of_os(error: OSError, name: str) -> dict[str, object]:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = StorageFull(f"no space left on the disk while parsing {name}: free some and run the job again")
        return {"error": type(full).__name__, "message": str(full)}
    return {"error": "UnreadableDocument", "message": f"{name} cannot be read: {error.strerror or error}"}


def _say(answers: IO[str], answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
