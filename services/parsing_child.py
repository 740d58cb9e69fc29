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
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipelines.errors import ModelUnavailable, RagError, StorageFull, UnreadableDocument

if TYPE_CHECKING:
    from pipelines.loaders import Layout, Options

#: file beside the pages for what else was found out about a document: {"remarks": […], "layouts": {page: Layout}}
NOTES = "notes.json"
_OPEN_FILES = 64
#: remarks that are kept of one document
_REMARKS = 100
#: times the memory that OCR may map
_SPACE = 4
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
        _limit_space(whole=False)
        try:
            work = _draw if "page" in request else _parse
            answer = {"done": work(request, answers, int(limits["output_mb"]) << 20)}
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
        resource.setrlimit(resource.RLIMIT_AS, (memory, _SPACE * memory))
        _leave_network()


def _limit_space(whole: bool) -> None:
    """Address space as much as memory, or all that OCR may map: its models map far more than they touch.

    What is resident is weighed by the parent in either case.
    """
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most if whole else most // _SPACE, most))


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
    notes = _Notes(answers)
    options = notes.options(request)
    total = loaders.count_pages(path, name, options)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        written = count = 0
        due = 0.0
        with part.open("w", encoding="utf-8") as file:
            for count, line in enumerate(_lines(path, name, options), 1):
                written += len(line)
                if written > most:
                    raise UnreadableDocument(f"{name} holds more than {most >> 20} MiB of text: split it")
                file.write(line)
                if time.monotonic() >= due:
                    _say(answers, {"pages": count, "of": total})
                    due = time.monotonic() + _REPORT
        notes.write(out.with_name(NOTES))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return count


def _draw(request: Mapping[str, str], answers: IO[str], _most: int) -> int:
    """The picture of a page, and where its words stand, beside it as JSON."""
    from pipelines import drawing

    out = Path(request["out"])
    options = _Notes(answers).options(request)
    layout = drawing.draw(Path(request["path"]), request["name"], int(request["page"]), out, options)
    out.with_suffix(".json").write_text(json.dumps(asdict(layout), ensure_ascii=False), encoding="utf-8")
    return 1


class _Notes:
    """What is kept of a document beside its pages: remarks, and where the words of pages stand that OCR read."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._remarks: list[str] = []
        self._layouts: dict[int, Layout] = {}

    def options(self, request: Mapping[str, str]) -> "Options":
        """What a loader is told: the password, and whom to tell what."""
        from pipelines.loaders import Options

        return Options(
            password=request.get("password", ""),
            ocr=request.get("ocr") != "off",
            tables=request.get("tables") == "on",
            words=_words,
            remark=self._remark,
            extend=self._extend,
            layout=self._layouts.__setitem__,
        )

    def write(self, path: Path) -> None:
        """Keep them as JSON, if there is anything to keep."""
        path.unlink(missing_ok=True)
        if self._remarks or self._layouts:
            layouts = {number: asdict(layout) for number, layout in self._layouts.items()}
            notes = json.dumps({"remarks": self._remarks, "layouts": layouts}, ensure_ascii=False)
            path.write_text(notes, encoding="utf-8")

    def _remark(self, text: str) -> None:
        if len(self._remarks) < _REMARKS:
            self._remarks.append(text)

    def _extend(self, seconds: float) -> None:
        """Move the clock of the parent, and our own behind it."""
        _limit_space(whole=True)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, max(1.0, left + seconds))
        _say(self._answers, {"extend": seconds})


def _words() -> dict[str, float]:
    """The vocabulary of the default embedding model; empty where it is not installed, so that nothing is guessed."""
    from connectors.e5.words import words

    try:
        return words()
    except ModelUnavailable:
        return {}


def _lines(path: Path, name: str, options: "Options") -> Iterator[str]:
    from pipelines import loaders

    for page in loaders.load(path, name, options):
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
