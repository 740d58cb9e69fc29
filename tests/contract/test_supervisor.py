"""Supervised children, with real processes: crash loops, deaf ones, permanent faults, and the death of the parent."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.errors import NotFound, Unavailable
from services.supervisor import Child, Children

ROOT = Path(__file__).parents[2]


def python(name: str, code: str, **settings: object) -> Child:
    settings.setdefault("ready", _always)
    return Child(name=name, command=(sys.executable, "-u", "-c", code), **settings)  # type: ignore[arg-type]


async def _always() -> bool:
    return True


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    kept = Children(tmp_path / "logs", backoff=(0.05, 0.4), healthy_after=60)
    yield kept
    await kept.stop()


async def test_a_child_runs_and_stops_cleanly(children: Children, tmp_path: Path) -> None:
    code = (
        "import signal,sys,time\nsignal.signal(15, lambda *_: (print('bye'), sys.exit(0)))\nprint('up')\ntime.sleep(60)"
    )
    await children.start(python("calm", code))
    await children.ready("calm")
    (state,) = children.states()
    assert state.state == "running"
    assert state.reason == ""
    assert state.restarts == 0
    assert alive(state.pid or 0)
    await until(lambda: "up" in children.states()[0].log)
    await children.stop("calm")
    assert children.states()[0].state == "stopped"
    assert not alive(state.pid or 0)
    assert "bye" in (tmp_path / "logs" / "calm.log").read_text()


async def test_a_killed_child_is_started_again(children: Children) -> None:
    await children.start(python("victim", "import time; time.sleep(60)"))
    await children.ready("victim")
    before = children.states()[0].pid
    os.kill(before or 0, signal.SIGKILL)
    await until(lambda: children.states()[0].pid not in (before, None))
    await children.ready("victim")
    assert children.states()[0].restarts == 1


async def test_a_crash_loop_backs_off_and_shows_the_last_words(children: Children) -> None:
    async def never() -> bool:
        return False

    started = time.monotonic()
    await children.start(python("loop", "import sys; print('no such port'); sys.exit(3)", ready=never))
    await until(lambda: children.states()[0].restarts == 3)
    assert time.monotonic() - started > 0.05 + 0.1 + 0.2, "pauses of 0.05, 0.1, 0.2 s were not kept"
    state = children.states()[0]
    assert state.state in ("backing off", "starting")
    assert "exit code 3" in state.reason
    assert "no such port" in str(state)
    with pytest.raises(Unavailable, match="no such port"):
        await children.ready("loop", timeout=0.1)


async def test_a_configuration_error_is_not_tried_again(children: Children) -> None:
    await children.start(python("misled", "import sys; print('noise'); print('the file is damaged'); sys.exit(78)"))
    await until(lambda: children.states()[0].state == "failed")
    assert children.states()[0].reason == "the file is damaged"
    await asyncio.sleep(0.3)
    assert children.states()[0].restarts == 0
    with pytest.raises(Unavailable, match="the file is damaged"):
        await children.ready("misled")


async def test_a_command_that_does_not_exist_says_so(children: Children) -> None:
    await children.start(Child(name="missing", command=("/no/such/program",), ready=_always))
    await until(lambda: children.states()[0].state == "failed")
    assert "No such file" in children.states()[0].reason


async def test_a_deaf_child_and_what_it_started_are_killed(tmp_path: Path) -> None:
    code = (
        "import signal,subprocess,sys,time\nsignal.signal(15, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal,time; signal.signal(15, 1); time.sleep(60)'])\n"
        "print('grandchild', p.pid)\ntime.sleep(60)"
    )
    children = Children(tmp_path)
    await children.start(python("deaf", code, stop_timeout=0.5))
    await until(lambda: any("grandchild" in line for line in children.states()[0].log))
    child, grandchild = children.states()[0].pid or 0, int(children.states()[0].log[0].split()[1])
    began = time.monotonic()
    await children.stop()
    assert time.monotonic() - began < 30
    assert not alive(child)
    await until(lambda: not alive(grandchild))


async def test_a_child_that_crashes_leaves_nothing_behind(children: Children) -> None:
    code = (
        "import subprocess,sys\np = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('grandchild', p.pid)\nsys.exit(78)"
    )
    await children.start(python("crash", code))
    await until(lambda: children.states()[0].state == "failed")
    grandchild = int(children.states()[0].log[0].split()[1])
    await until(lambda: not alive(grandchild))


async def test_a_child_that_never_gets_ready_is_restarted(children: Children) -> None:
    async def never() -> bool:
        return False

    await children.start(python("late", "import time; time.sleep(60)", ready=never, start_timeout=0.3))
    await until(lambda: children.states()[0].restarts >= 1)
    assert "not ready after 0.3 s" in children.states()[0].reason


async def test_a_hung_child_is_restarted(children: Children) -> None:
    answers = iter([True, True, False, False])

    async def ready() -> bool:
        return next(answers, True)

    await children.start(python("hung", "import time; time.sleep(60)", ready=ready, check_every=0.05, checks=2))
    await until(lambda: children.states()[0].restarts == 1)
    await children.ready("hung")


async def test_starting_the_same_name_replaces_the_child(children: Children) -> None:
    for text in ("one", "two"):
        await children.start(python("model", f"import time; print('{text}'); time.sleep(60)"))
        await children.ready("model")
        await until(lambda word=text: word in children.states()[0].log)  # type: ignore[misc]
    assert len(children.states()) == 1


async def test_logs_stay_small(children: Children, tmp_path: Path) -> None:
    await children.start(python("loud", "for n in range(140_000): print('x' * 99)\nimport time; time.sleep(60)"))
    log = tmp_path / "logs" / "loud.log"
    await until(lambda: log.with_name("loud.log.1").exists() and children.states()[0].pid is not None)
    await asyncio.sleep(0.5)
    assert log.stat().st_size <= 5 << 20
    assert sorted(path.name for path in log.parent.iterdir()) == ["loud.log", "loud.log.1"]


async def test_an_unknown_name_is_refused(children: Children) -> None:
    with pytest.raises(NotFound):
        await children.ready("nobody")


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
async def test_killing_the_parent_ends_every_child(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from services.supervisor import Child, Children
async def ready(): return True
async def main():
    children = Children(Path({str(tmp_path)!r}))
    for name in "ab":
        code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
        await children.start(Child(name=name, command=(sys.executable, "-c", code), ready=ready))
    while not all("up" in state.log for state in children.states()):
        await asyncio.sleep(0.02)
    print(*(state.pid for state in children.states()), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(alive(pid) for pid in pids))
