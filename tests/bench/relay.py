"""The token path against the C relay floor and its peers, in one run of ../shared/tools/lockstep (needs a C compiler).

Ratios hold on a busy machine, microseconds do not: the figure for a request is scaled to a floor of 19 µs.
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.conftest import SHARED

ROOT = Path(__file__).parents[2]
UVICORN = "--loop uvloop --http httptools --no-access-log --log-level warning"
PORTS = {"deepwell": 18973, "fastapi+httpx": 18974, "lcel": 18975}
#: µs of the floor for one request on a quiet machine
QUIET_FLOOR = 19.0


def measure(names: list[str], *options: str) -> list[dict[str, Any]]:
    """Lines of lockstep for these gateways and the floor."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.json"
        command = [sys.executable, str(SHARED / "tools/lockstep/lockstep.py"), "--key", "test", "--settle", "4"]
        for name in names:
            start = f"{sys.executable} -m uvicorn {app(name)} --port {PORTS[name]} {UVICORN}"
            start = f"env PEER={name.rpartition('+')[2]} PYTHONPATH={ROOT} {start}"
            command += ["--proxy", f"{name}={PORTS[name]}", "--cmd", f"{name}={start}"]
        subprocess.run([*command, *options, "--json", str(out)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in out.read_text().splitlines()]


def app(name: str) -> str:
    """The ASGI app of a gateway."""
    return "tests.bench.relay_app:app" if name == "deepwell" else "tests.bench.relay_peer:app"


def least(lines: list[dict[str, Any]], name: str, streams: int, figure: str) -> float:
    """The smallest figure over the rounds."""
    return float(min(line[figure] for line in lines if line["name"] == name and line["conc"] == streams))


def run() -> dict[str, object]:
    """Prints the table; fails on a missed ratio."""
    if not SHARED.is_dir():
        print("needs ../shared/tools/lockstep, which is not beside this checkout")
        return {}
    peers = ["fastapi+httpx", *(["lcel"] if find_spec("langchain_openai") else [])]
    lines = measure(["deepwell", *peers], "--streams", "32,128", "--rounds", "3")
    found: dict[str, object] = {}
    for streams in (32, 128):
        floor = least(lines, "floor", streams, "us_chunk")
        for name in ["deepwell", *peers]:
            found[f"{name} at {streams} streams, x floor"] = round(least(lines, name, streams, "us_chunk") / floor, 2)
    single = measure(["deepwell"], "--chunks", "1", "--streams", "32", "--rounds", "3")
    floor = least(single, "floor", 32, "us_chunk")
    cost = least(single, "deepwell", 32, "us_chunk")
    found["request, us CPU (floor)"] = f"{cost:.0f} ({floor:.0f})"
    scaled = cost * min(1.0, QUIET_FLOOR / floor)
    found["request, us CPU at a floor of 19 us"] = round(scaled)
    for name, figure in found.items():
        print(f"{name:45} {figure!s:>12}   target {target(name)}")
    for streams in (32, 128):
        ours = float(str(found[f"deepwell at {streams} streams, x floor"]))
        assert ours <= 3.0, f"{ours} times the floor at {streams} streams, 3.0 wanted"
        for peer, times in (("fastapi+httpx", 10), ("lcel", 30)):
            if peer in peers:
                theirs = float(str(found[f"{peer} at {streams} streams, x floor"]))
                assert theirs >= times * ours, f"{theirs / ours:.1f} times below {peer} at {streams} streams"
    assert scaled <= 150, f"{scaled:.0f} us a request"
    return found


def target(name: str) -> str:
    """What issue and docs promise."""
    if name.startswith("deepwell"):
        return "<= 3.0"
    if name.startswith("request"):
        return "<= 150 us"
    return ">= 30 times ours" if name.startswith("lcel") else ">= 10 times ours"


if __name__ == "__main__":
    run()
