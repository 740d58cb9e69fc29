"""JSON and JSON lines: records as tables, nested things as headings and "name: value" lines."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.errors import UnreadableDocument
from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import heading, one_line, table
from pipelines.types import Page

SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
MEDIA_TYPES = frozenset({"application/json", "application/x-ndjson", "application/jsonl"})

#: records of one page; a longer file becomes several pages
RECORDS = 500
#: levels that are told apart; what lies deeper is written as JSON
_DEPTH = 12
#: longest text that fits the cell of a table
_CELL = 300


def recognises(sample: Sample) -> bool:
    """JSON has no mark of its own; its name decides."""
    return False


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page for each 500 records, without a number. Raises UnreadableDocument where the JSON is broken, by line."""
    text = read_text(path, options)
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except RecursionError:
        raise UnreadableDocument(f"{path.name} is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        value = _lines(text, path.name, error)
    if not isinstance(value, list):
        yield Page(text="\n\n".join(_blocks(value, 1)))
        return
    records, first = iter(value), 1
    while group := list(islice(records, RECORDS)):
        title = f"records {first}-{first + len(group) - 1}" if len(value) > RECORDS else ""
        yield Page(text="\n\n".join(_blocks(group, 1)), title=title)
        first += len(group)


def _lines(text: str, name: str, whole: json.JSONDecodeError) -> list[Any]:
    """A value a line; if even the first line is none, the error of the file as a whole stands."""
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                place = f"line {number}" if values else f"line {whole.lineno}"
                reason = error if values else whole
                raise UnreadableDocument(
                    f"{name} is damaged JSON at {place} ({getattr(reason, 'msg', 'nested too deeply')}): correct it"
                ) from None
    return values


def _blocks(value: Any, level: int) -> Iterator[str]:
    if level > _DEPTH:
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        yield "\n".join(f"{name}: {_shown(v)}" for name, v in value.items() if _is_plain(v) and _shown(v))
        for name, inner in value.items():
            if not _is_plain(inner):
                yield heading(str(name), level)
                yield from _blocks(inner, level + 1)
    elif isinstance(value, list):
        yield from _list(value, level)
    else:
        yield _shown(value)


def _list(values: list[Any], level: int) -> Iterator[str]:
    if _is_table(values):
        names = list(dict.fromkeys(name for value in values for name in value))
        yield table([[str(n) for n in names], *([_shown(value.get(n)) for n in names] for value in values)])
    elif all(_is_plain(value) for value in values):
        yield "\n".join(f"- {_shown(value)}" for value in values if _shown(value))
    else:
        for value in values:
            yield from _blocks(value, level)


def _is_table(values: list[Any]) -> bool:
    """Flat records that share most of their names, with texts short enough for cells."""
    if len(values) < 2 or not all(isinstance(value, dict) and value for value in values):
        return False
    names = {name for value in values for name in value}
    flat = all(_is_plain(v) and len(_shown(v)) <= _CELL for value in values for v in value.values())
    return flat and len(names) > 1 and len(names) <= 2 * max(len(value) for value in values)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list) or value in ({}, [])


def _shown(value: Any) -> str:
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(value) if isinstance(value, str) and len(value) <= _CELL else str(value)
