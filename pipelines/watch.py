"""What one request or one job spends its time on, noted while it happens; services read it at the end.

Metrics, traces and log lines are all made from this one record. A step costs about a microsecond, a token nothing:
nothing here is called per token. Where nobody watches, `current()` is None and nothing is noted.
"""

import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from pipelines.types import Finish, Usage

#: steps of one record that are kept: a long ingestion has two for each batch
MOST_STEPS = 2000


class Step(NamedTuple):
    """One step; times in seconds of `time.perf_counter`."""

    name: str
    began: float
    ended: float
    #: name of the error it ended with, "" for none
    error: str = ""


@dataclass(slots=True)
class Watch:
    """One request, or one run of a job."""

    #: goes to the model server as `X-Request-Id`, into every log line, and back to the client
    id: str = ""
    #: W3C trace context that goes to the model server, "" for none
    traceparent: str = ""
    began: float = field(default_factory=time.perf_counter)
    steps: list[Step] = field(default_factory=list)
    #: public id of the model, once a question is being answered
    model: str = ""
    #: how the question ended: answered, abstained, cut, client (a client's own request), failed, left; "" for none
    outcome: str = ""
    #: code of the error it failed with
    error: str = ""
    question: str = ""
    usage: Usage | None = None
    #: seconds from the beginning of the question to its first token, to its end
    first_token: float = 0.0
    seconds: float = 0.0
    #: of the HTTP answer, 0 before it
    status: int = 0
    #: embedded and written so far, by an ingestion
    passages: int = 0
    #: who asked: the name of the key
    caller: str = ""
    #: which of the client's own users, as the client says; "" where it says nothing
    user: str = ""

    def note(self, name: str, began: float, ended: float, error: str = "") -> None:
        """A step that has ended."""
        if len(self.steps) < MOST_STEPS:
            self.steps.append(Step(name, began, ended, error))

    def note_answer(self, finish: Finish) -> None:
        """How the answer to a question ended."""
        self.first_token, self.seconds = finish.timings["first_token"], finish.timings["total"]
        self.usage = finish.usage
        if self.outcome == "client":
            return
        self.outcome = "abstained" if finish.abstained else "cut" if finish.reason == "length" else "answered"


_current: ContextVar[Watch | None] = ContextVar("deepwell_watch", default=None)


def current() -> Watch | None:
    """The record of the request or job that this code works for; None where nobody watches."""
    return _current.get()


def begin(watch: Watch) -> Token[Watch | None]:
    """Make it the current one in this context; give the token to `end`."""
    return _current.set(watch)


def end(token: Token[Watch | None]) -> None:
    """Undo `begin`."""
    _current.reset(token)


class step:
    """`with step("embed"):` notes one step of the current record. May stand around a `yield`."""

    __slots__ = ("_began", "_name", "_watch")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._watch = _current.get()
        if self._watch is not None:
            self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            error = "" if kind is None or kind is GeneratorExit else kind.__name__
            self._watch.note(self._name, self._began, time.perf_counter(), error)
