"""Steps of durable workflows: checkpointed, tried again while an error is retryable, given up when cancelled."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from dbos import DBOS, StepOptions
from dbos import error as dbos_errors

from pipelines import watch
from pipelines.errors import RagError

#: tries of a step, with waits of 1, 2, 4 … s between them: two minutes for a model server to come back
STEP_TRIES = 8


def workflow(name: str, run: Callable[..., Awaitable[Any]]) -> None:
    """Name a workflow to the job library, which finds it by that name after a restart."""
    DBOS.workflow(name=name, max_recovery_attempts=100)(_function(run))


async def step(
    name: str, run: Callable[..., Awaitable[Any]], *arguments: Any, seconds: float = 1.0, tries: int = STEP_TRIES
) -> Any:
    """Run one step of the workflow this is called in; `seconds` is the first pause between two tries."""
    options: StepOptions = {
        "name": name,
        "retries_allowed": True,
        "max_attempts": tries,
        "interval_seconds": seconds,
        "should_retry": _retryable,
        "preemptible": True,
    }
    try:
        with watch.step(name):
            return await DBOS.run_step_async(options, _function(run), *arguments)
    except dbos_errors.DBOSMaxStepRetriesExceeded as error:
        raise error.errors[-1] from error


def _function(run: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The job library writes attributes on what it is given, which methods do not take."""

    async def function(*arguments: Any) -> Any:
        return await run(*arguments)

    return function


def _retryable(error: BaseException) -> bool:
    return isinstance(error, RagError) and error.retryable
