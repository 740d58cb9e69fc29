"""Texts to vectors, synchronously: tokenise, sort into batches of like length, run OpenVINO.

Two compiled models: one for documents with a stream for each core, one for questions with a single thread, so that a
question never waits behind a batch. Threads of documents are nice, so that a question takes the core at once.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from connectors.e5.tokenizer import Tokenizer
from connectors.e5.weights import Floats, WordTable

HIDDEN = 384
#: tokens of a batch, padding included: what stays in a core's caches
BATCH_TOKENS = 512
#: the most a text may be shorter than the longest of its batch, as a share of that
MAX_PADDING = 0.15
QUANTISATION_GROUP = 64
NICE = 10


def bucket(length: int) -> int:
    """Length to which a batch is padded: few distinct shapes, for each of which OpenVINO prepares its kernels."""
    step = 8 if length <= 256 else 16
    return -(-length // step) * step


def plan(lengths: Sequence[int], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Positions of texts, batch by batch, longest first: at most `budget` tokens (one text may have more).

    A batch holds texts of like length, so that padding stays under MAX_PADDING plus the rounding of `bucket`.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = len(batches[-1]) + 1 if batches else 0
        if not batches or bucket(longest) * size > budget or lengths[position] < longest * (1 - MAX_PADDING) - 4:
            batches.append([])
            longest = lengths[position]
        batches[-1].append(position)
    return batches


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def compiled(model: Path, engine: str, precision: str, streams: int) -> Any:
    """The model compiled for the CPU with one thread for each stream."""
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTISATION_GROUP if engine == "int8" else 0,
    }
    return ov.Core().compile_model(str(model), "CPU", options)


class Engine:
    """An opened folder of connectors.e5.convert. Its methods block; call them in a thread.

    Each of the two models is compiled on its first use: a service that only asks never holds the one for documents.
    """

    def __init__(self, folder: Path, weights: Path, threads: int = 0) -> None:
        made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
        self.made: dict[str, Any] = made
        self.tokenizer = Tokenizer(folder / "tokenizer.model", made["bos"], made["eos"])
        self._words = WordTable(weights, made["words_offset"], made["words_rows"], HIDDEN)
        self._pad = int(made["pad"])
        self._model = folder / "encoder.xml"
        self.streams = threads or cores()
        self.pool = ThreadPoolExecutor(self.streams, thread_name_prefix="embed", initializer=_be_nice)
        self._lock = threading.Lock()
        self._question_request: Any = None
        self._documents: Any = None
        self._local = threading.local()

    def question(self, text: str, prefix: str) -> Floats:
        """Vector of one text on one thread, shape (384,)."""
        ids = self.tokenizer.encode([text], prefix)
        with self._lock:
            if self._question_request is None:
                self._question_request = self._compiled(1).create_infer_request()
            vector: Floats = self._run(self._question_request, ids)[0]
            return vector

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches for texts of these token counts, enough of them to keep every stream busy."""
        share = -(-sum(lengths) // self.streams)
        return plan(lengths, min(BATCH_TOKENS, max(share, 64)))

    def batch(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Vectors of one batch of token ids on one stream, shape (len(ids), 384). For use in `pool`."""
        if not hasattr(self._local, "request"):
            with self._lock:
                # OpenVINO's threads inherit the niceness of the thread that makes them: this one's.
                self._documents = self._documents or self._compiled(self.streams)
            self._local.request = self._documents.create_infer_request()
        return self._run(self._local.request, ids)

    def _compiled(self, streams: int) -> Any:
        return compiled(self._model, self.made["engine"], self.made["precision"], streams)

    def _run(self, request: Any, ids: Sequence[Sequence[int]]) -> Floats:
        lengths = np.array([len(row) for row in ids])
        width = bucket(int(lengths.max()))
        padded = np.full((len(ids), width), self._pad, np.int64)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = tokens
        mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
        infer(request, [self._words.rows(padded), mask])
        return np.array(request.get_output_tensor().data, np.float32)


_binding = threading.Lock()
_bound = threading.Event()


def infer(request: Any, inputs: list[Floats]) -> None:
    """Run a request; the first one of the process while no other runs.

    OpenVINO's Python binding fills a C++ static at its first inference. Two threads there at once wait for ever: one
    holds the static's guard and waits for the interpreter lock, the other the reverse (seen with OpenVINO 2026.4).
    """
    if _bound.is_set():
        request.infer(inputs)
        return
    with _binding:
        request.infer(inputs)
        _bound.set()


def _be_nice() -> None:
    if sys.platform == "linux":  # there, and only there, niceness belongs to a thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
