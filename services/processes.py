"""The states of supervised processes, as `deepwell up` writes them for the HTTP service to show."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

FILE = "processes.json"


def write_states(data_dir: Path, states: Mapping[str, str]) -> None:
    """Replace the file at once. `states` holds "ok" or what is wrong, by process."""
    path = data_dir / FILE
    path.with_suffix(".new").write_text(json.dumps(dict(states), ensure_ascii=False))
    os.replace(path.with_suffix(".new"), path)


def read_states(data_dir: Path) -> dict[str, str]:
    """What `deepwell up` wrote last; {} where nothing supervises."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((data_dir / FILE).read_text()))
    return {}
