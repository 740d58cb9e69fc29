"""Where settings are written: the environment, files that it names, and `deepwell.toml`. For services.settings."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import BadRequest

PREFIX = "DEEPWELL_"
#: behind a variable's name: its value is the content of a file, as secrets are given to containers
FROM_FILE = "_file"


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Values by dotted name. Raises BadRequest for a variable that names a file which cannot be read."""
    names = {key: key[len(PREFIX) :].lower().replace("__", ".") for key in environ if key.startswith(PREFIX)}
    values = {name: environ[key] for key, name in names.items() if name != "config" and not name.startswith("test_")}
    for name in [name for name in values if name.endswith(FROM_FILE)]:
        values[name.removesuffix(FROM_FILE)] = _content(Path(values.pop(name)), name)
    if standard := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):  # the name that every program with traces knows
        values.setdefault("tracing.endpoint", standard)
    return values


def _content(path: Path, name: str) -> str:
    """The content of a file that a variable names, without the end of its line."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        variable = PREFIX + name.upper().replace(".", "__")
        raise BadRequest(f"{variable} names {path}, which cannot be read: {error}") from None


def from_file(path: Path, required: bool) -> dict[str, Any]:
    """Values of a TOML file by dotted name. Raises BadRequest if it is not valid, or required and not there."""
    if not path.exists():
        if required:
            raise BadRequest(f"{PREFIX}CONFIG names {path}, but there is no such file")
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not valid TOML: {error}") from None
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
