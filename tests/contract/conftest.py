"""Real model servers with a tiny R1, started when a test first asks for one, ended with the session."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests import engines, tiny_r1
from tests.engines import Engine, NotHere

SLOW = pytest.mark.slow
ENGINES = ["llamacpp", "openai", pytest.param("vllm", marks=SLOW), pytest.param("vllm_plain", marks=SLOW)]
START = {"llamacpp": engines.llamacpp, "vllm": engines.vllm, "vllm_plain": engines.vllm_plain}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tiny_r1.TinyR1:
    """The tiny model's files."""
    return tiny_r1.build(tmp_path_factory.mktemp("tiny"))


class Servers:
    """Servers by name; `openai` is that connector in front of llama.cpp. Only one vLLM runs at a time: 3 GB each."""

    def __init__(self, tiny: tiny_r1.TinyR1, factory: pytest.TempPathFactory) -> None:
        self._tiny, self._logs = tiny, factory.mktemp("engines")
        self._started: dict[str, tuple[Engine, ExitStack]] = {}

    def get(self, name: str) -> Engine:
        """A running server. Raises NotHere."""
        if name == "openai":
            running = self.get("llamacpp")
            return replace(running, name="openai", url=f"{running.url}/v1")
        if name not in self._started:
            for other in [other for other in self._started if other != "llamacpp"]:
                self._started.pop(other)[1].close()
            stack = ExitStack()
            self._started[name] = (stack.enter_context(START[name](self._tiny, self._logs / f"{name}.log")), stack)
        return self._started[name][0]

    def stop(self) -> None:
        """End them all."""
        while self._started:
            self._started.popitem()[1][1].close()


@pytest.fixture(scope="session")
def servers(tiny: tiny_r1.TinyR1, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers by name."""
    started = Servers(tiny, tmp_path_factory)
    yield started
    started.stop()


@pytest.fixture(params=ENGINES, scope="session")
def engine(request: pytest.FixtureRequest, servers: Servers) -> Engine:
    """Every server that can be run here, one after the other."""
    try:
        return servers.get(request.param)
    except NotHere as reason:
        pytest.skip(str(reason))
