"""Process that serves an embedded Milvus Lite: `python -m connectors.lite_server --data-dir D --port P`.

The same as `milvus-lite server`, with three differences:

- SIGTERM and SIGINT close the database in order (the stock command only knows Ctrl-C).
- Searching does not walk all primary keys each time. Milvus Lite 3.2 computes on every search which rows are live
  (the newest version of their key, not deleted): a Python loop over all N rows, 55 of 60 ms at 100,000 rows. Between
  two writes the answer is the same, so it is kept until segments or deletions change. The rest is the library's own
  code; a request of another shape than ours (filters, partitions, output fields, unflushed rows) takes its own path,
  and so does every request if the library is another version than the one this was read against.
- What it writes survives kills and power cuts, and damaged files are healed: connectors/lite_files.py.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from connectors import lite_files

#: release of milvus-lite whose `search/executor_indexed.py` the short cut below was written against
READ_AGAINST = "3.2.2"
Mask = NDArray[np.bool_] | None
Row = dict[str, Any]

log = logging.getLogger(__name__)


class LiveRows:
    """Which rows of each segment are live: the newest version of their key and not deleted. Kept between writes."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, tuple[tuple[Any, ...], dict[Any, int], list[Mask]]] = WeakKeyDictionary()

    def masks(self, memtable: Any, segments: tuple[Any, ...], deleted: dict[Any, int]) -> list[Mask]:
        """One mask a segment; None where every row is live. `memtable` stands for the collection."""
        known = self._known.get(memtable)
        if known is not None and _same(known[0], segments) and known[1] == deleted:
            return known[2]
        masks = live_rows(segments, deleted)
        self._known[memtable] = (segments, deleted, masks)
        return masks


def _same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def live_rows(segments: Sequence[Any], deleted: dict[Any, int]) -> list[Mask]:
    """The library's rule: a row lives if no row of its key is newer and no deletion of its key is newer."""
    newest: dict[Any, int] = {}
    for segment in segments:
        for key, sequence in zip(segment.pks, segment.seqs.tolist(), strict=True):
            if newest.get(key, -1) < sequence:
                newest[key] = sequence
    masks: list[Mask] = []
    for segment in segments:
        pairs = zip(segment.pks, segment.seqs.tolist(), strict=True)
        mask = np.fromiter((newest[key] == at >= deleted.get(key, -1) for key, at in pairs), bool, segment.num_rows)
        masks.append(None if mask.all() else mask)
    return masks


def quick_search(stock: Callable[..., list[list[Row]]]) -> Callable[..., list[list[Row]]]:
    """`execute_search_with_index` of milvus-lite with the live rows kept; `stock` serves every other request."""
    live = LiveRows()

    def search(**request: Any) -> list[list[Row]]:
        segments = tuple(segment for segment in request["segments"] if segment.num_rows)
        if not _is_plain(request, segments):
            return stock(**request)
        masks = live.masks(request["memtable"], segments, request["delta_index"]._map)
        return _merge(request, segments, masks)

    return search


def _is_plain(request: dict[str, Any], segments: tuple[Any, ...]) -> bool:
    """Ids and distances of everything, all rows flushed and indexed."""
    memtable, field = request["memtable"], request["vector_field"]
    return (
        bool(segments)
        and request.get("compiled_filter") is None
        and not request.get("partition_names")
        and set(request.get("output_fields") or ("",)) <= {request["pk_field"]}
        and memtable.size() == 0
        and memtable.num_physical_rows() == 0
        and all(field in segment.indexes and segment.vector_data(field)[1] is None for segment in segments)
    )


def _merge(request: dict[str, Any], segments: tuple[Any, ...], masks: list[Mask]) -> list[list[Row]]:
    vectors = np.atleast_2d(np.asarray(request["query_vectors"], dtype=np.float32))
    limit: int = request["top_k"]
    found: list[list[tuple[float, int, int]]] = [[] for _ in vectors]
    for number, (segment, mask) in enumerate(zip(segments, masks, strict=True)):
        if mask is not None and not mask.any():
            continue
        index = segment.indexes[request["vector_field"]]
        rows, distances = index.search(vectors, limit, valid_mask=mask, params=request.get("search_params"))
        for hits, ids, away in zip(found, rows.tolist(), distances.tolist(), strict=True):
            hits.extend((d, number, row) for d, row in zip(away, ids, strict=True) if row >= 0)
    return [
        [{"id": segments[n].pks[row], "distance": away, "entity": {}} for away, n, row in sorted(hits)[:limit]]
        for hits in found
    ]


def serve(data_dir: str, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises DataDirLockedError if another process has the directory."""
    from milvus_lite.adapter.grpc.server import _build_server
    from milvus_lite.db import MilvusLite
    from milvus_lite.engine import collection

    if version("milvus-lite") == READ_AGAINST:
        lite_files.guard()
        collection.execute_search_with_index = quick_search(collection.execute_search_with_index)
    else:
        log.warning("milvus-lite %s: without the short cut and the guards for %s", version("milvus-lite"), READ_AGAINST)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = MilvusLite(data_dir)
    lite_files.tidy(Path(data_dir))
    server = _build_server(database, max_workers=10)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    log.warning("Milvus Lite listens on %s:%d, data in %s", host, port, data_dir)
    stop.wait()
    server.stop(grace=3).wait()
    with ThreadPoolExecutor(1) as closing:
        closing.submit(database.close).result(timeout=30)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="connectors.lite_server", description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # gRPC reports each call of a method that Lite does not have; clients probe for some at connect
    logging.getLogger("grpc").propagate = False
    from milvus_lite.exceptions import DataDirLockedError

    try:
        serve(arguments.data_dir, arguments.host, arguments.port)
    except DataDirLockedError:
        log.error("the vector database in %s is in use by another process: stop that one first", arguments.data_dir)
        sys.exit(3)


if __name__ == "__main__":
    main()
