"""What Milvus Lite keeps on disk survives a kill and a power cut, and damage to it is healed.

Milvus Lite 3.2 writes its manifest atomically and logs each row before it acknowledges it. Four things it leaves to
luck, each of which made a collection unreadable or lost rows for good; `guard()` takes care of them:

- Index files were written in place by a background thread and taken for whole at the next start. They are written
  beside, synced and renamed; one that cannot be read is built anew from the vectors.
- Data files were not synced before the log that they replace was deleted. They are.
- A data file, manifest or schema that cannot be read refused the whole collection for ever. Data files are left out,
  a collection without a readable manifest or schema is set aside; the worker embeds again what is missing
  (services/repair.py), since texts are kept in SQL.
- A flush that failed (a full disk) dropped its rows from memory, and the next one deleted their log. The rows stay.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: what reading a damaged file raises: Arrow and faiss (RuntimeError), NumPy, JSON
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, EOFError)
#: ends names of files that are being written
PART = ".part"

log = logging.getLogger(__name__)


def tidy(data_dir: Path) -> None:
    """Before serving, with the directory's lock held: remove what a kill left half done, set unreadable ones aside."""
    from milvus_lite.exceptions import ManifestCorruptedError, SchemaValidationError
    from milvus_lite.schema.persistence import load_schema
    from milvus_lite.storage.manifest import Manifest

    for part in data_dir.glob(f"collections/*/partitions/*/indexes/*{PART}"):
        part.unlink(missing_ok=True)
    for collection in data_dir.glob("collections/*"):
        try:
            load_schema(str(collection / "schema.json"))
            Manifest.load(str(collection))
        except FileNotFoundError:
            log.warning("collection %s was never finished, or its deletion was not: removed", collection.name)
            shutil.rmtree(collection, ignore_errors=True)
        except (ManifestCorruptedError, SchemaValidationError, UnicodeDecodeError) as error:
            _set_aside(collection, error)


def guard() -> None:
    """Put the guards into milvus-lite, for the whole process."""
    from milvus_lite.db import MilvusLite
    from milvus_lite.engine import compaction, flush
    from milvus_lite.engine.collection import Collection
    from milvus_lite.index.brute_force import BruteForceIndex
    from milvus_lite.index.faiss_hnsw import FaissHnswIndex
    from milvus_lite.index.faiss_hnsw_sq import FaissHnswSqIndex
    from milvus_lite.index.faiss_ivf_flat import FaissIvfFlatIndex
    from milvus_lite.index.faiss_ivf_sq8 import FaissIvfSq8Index
    from milvus_lite.storage.segment import Segment

    for kind in (BruteForceIndex, FaissHnswIndex, FaissHnswSqIndex, FaissIvfFlatIndex, FaissIvfSq8Index):
        kind.save = whole_save(kind.save)
    Segment.build_or_load_index = readable_index(Segment.build_or_load_index)
    flush.write_data_file = synced(flush.write_data_file)
    flush.write_delta_file = synced(flush.write_delta_file)
    compaction.write_data_file = synced(compaction.write_data_file)
    Collection._trigger_flush = safe_flush(Collection._trigger_flush)
    MilvusLite.get_collection = readable_collection(MilvusLite.get_collection)


def whole_save(stock: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """Write an index file beside its place, sync and rename it. If that fails the index serves from memory."""

    def save(index: Any, path: str) -> None:
        part = f"{path}.{threading.get_ident()}{PART}"
        try:
            stock(index, part)
            _sync(part)
            os.replace(part, path)
            _sync(os.path.dirname(path))
        except DAMAGE as error:  # faiss says RuntimeError where others say OSError
            Path(part).unlink(missing_ok=True)
            log.warning("index file %s cannot be written, it is built anew at the next start: %s", path, error)

    return save


def readable_index(stock: Callable[..., None]) -> Callable[..., None]:
    """Load the index file of a segment; one that is damaged or another segment's is replaced by a new one."""

    def build_or_load_index(segment: Any, spec: Any, index_dir: str) -> None:
        path = Path(segment.index_file_path(index_dir, spec.index_type, spec.field_name))
        known, stored = spec.field_name in segment.indexes, path.exists()
        try:
            stock(segment, spec, index_dir)
            index = segment.indexes.get(spec.field_name)
            if known or not stored or index is None or index.num_vectors == segment.num_rows:
                return
            error: Exception = ValueError(f"it holds {index.num_vectors} vectors for {segment.num_rows} rows")
        except DAMAGE as caught:
            if known or not stored:
                raise
            error = caught
        log.warning("index file %s cannot be used and is built anew from the vectors: %s", path, error)
        segment.release_index(spec.field_name)
        path.unlink(missing_ok=True)
        stock(segment, spec, index_dir)

    return build_or_load_index


def synced(stock: Callable[..., str]) -> Callable[..., str]:
    """Sync a data or delta file that was just written: the log that it replaces is deleted next."""

    def write(table: Any, partition_dir: str, *arguments: Any, **named: Any) -> str:
        relative = stock(table, partition_dir, *arguments, **named)
        path = os.path.join(partition_dir, relative)
        _sync(path)
        _sync(os.path.dirname(path))
        return relative

    return write


def safe_flush(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    """Flush; if that fails, the rows are in memory and in the log as before, and the caller is told why."""

    def flush(collection: Any) -> None:
        from milvus_lite.storage.manifest import Manifest

        memtable, wal = collection._memtable, collection._wal
        try:
            stock(collection)
        except (*DAMAGE, MemoryError):
            if collection._memtable is memtable:
                raise
            if wal._closed or collection._wal.size_bytes:  # committed after all, or rows came in between
                log.exception(
                    "flushing %s failed half way: this process ends, the next one reads the log", collection.name
                )
                os._exit(1)
            collection._memtable, collection._wal = memtable, wal
            collection._manifest = Manifest.load(collection._data_dir)
            raise

    return flush


def readable_collection(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Open a collection, once; files that are damaged are left out, so that the rest can be searched."""
    # one at a time: the library opens a collection twice for two first requests, and both write the same log
    opening = threading.Lock()

    def get_collection(database: Any, name: str, database_name: str = "default") -> Any:
        if (database_name, name) in database._collections:
            return stock(database, name, database_name)
        with opening:
            try:
                return stock(database, name, database_name)
            except DAMAGE as error:
                if not _without_damaged_files(Path(database._collection_dir(name, database_name)), error):
                    raise
                return stock(database, name, database_name)

    return get_collection


def _set_aside(directory: Path, error: Exception) -> None:
    aside = directory.parents[1] / "damaged" / f"{directory.name}-{time.time_ns()}"
    log.error(
        "collection %s cannot be read (%s): moved to %s. The worker embeds its passages again from the stored texts "
        "within the hour, or at once when Deepwell is started again",
        directory.name, error, aside,
    )  # fmt: skip
    aside.parent.mkdir(exist_ok=True)
    directory.rename(aside)


def _without_damaged_files(directory: Path, error: Exception) -> int:
    """Take data and delta files that cannot be read out of the manifest. Gives how many there were."""
    from milvus_lite.storage.manifest import Manifest

    manifest = Manifest.load(str(directory))
    damaged = [*_unreadable(directory, manifest.get_all_data_files())]
    deltas = [*_unreadable(directory, manifest.get_all_delta_files())]
    for partition, name in damaged:
        manifest.remove_data_files(partition, [name])
    for partition, name in deltas:
        manifest.remove_delta_files(partition, [name])
    if damaged or deltas:
        manifest.save()
        log.error(
            "collection %s has damaged files (%s; %s): they are left out. The worker embeds their passages again from "
            "the stored texts within the hour, or at once when Deepwell is started again",
            directory.name, ", ".join(name for _, name in damaged + deltas), error,
        )  # fmt: skip
    return len(damaged) + len(deltas)


def _unreadable(directory: Path, files: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    from milvus_lite.storage.data_file import read_data_file

    for partition, names in files.items():
        for name in names:
            path = directory / "partitions" / partition / name
            if not path.exists():
                continue  # the library warns of it and goes on
            try:
                read_data_file(str(path)).column("_seq")
            except DAMAGE:
                yield partition, name


def _sync(path: str) -> None:
    with _opened(path) as number:
        os.fsync(number)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)
