"""`make bench [ARGS=name …]`: runs every benchmark module here, or those named, and prints their tables.

Each module offers `run() -> dict[str, object]`; the results are kept as JSON in `.bench/`.
"""

import json
import pkgutil
import sys
import time
from importlib import import_module
from pathlib import Path

import tests.bench


def main(names: list[str]) -> int:
    """Run the benchmarks named, all of them by default; 1 if one of them failed."""
    out = Path(".bench")
    out.mkdir(exist_ok=True)
    failed = 0
    for name in names or sorted(m.name for m in pkgutil.iter_modules(tests.bench.__path__) if m.name != "__main__"):
        module = import_module(f"tests.bench.{name}")
        if not hasattr(module, "run"):  # a part of another benchmark
            continue
        print(f"\n== {name}", flush=True)
        try:
            figures = module.run()
        except AssertionError as error:
            print(f"MISSED: {error}")
            failed = 1
            continue
        (out / f"{name}.json").write_text(
            json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **figures}, indent=1)
        )
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
