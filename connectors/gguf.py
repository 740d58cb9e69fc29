"""Reads the header of a GGUF file: what model it is, and whether the file is whole.

Format: github.com/ggml-org/ggml, docs/gguf.md (versions 2 and 3, little-endian). Nothing but the header is read; long
arrays (the vocabulary) are walked over, not kept.
"""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import NotFound, UnreadableDocument, UnsupportedDocument

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
#: struct codes of the scalar value types
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: ggml tensor type -> (elements in a block, bytes of a block); ggml/include/ggml.h and ggml-common.h
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip
#: general.file_type -> name; llama.cpp include/llama.h, enum llama_ftype
QUANTIZATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """What the header of a GGUF file says."""

    path: Path
    #: bytes of this file
    size: int
    #: llama.cpp's name of the architecture, e.g. "qwen2"
    architecture: str
    #: general.name, "" if the file has none
    name: str
    #: tokens the model was trained for, 0 if unknown
    context: int
    #: Jinja template, "" if the file has none
    chat_template: str
    #: elements of all tensors in this file
    parameters: int
    #: e.g. "Q4_K_M", "" if unknown
    quantization: str
    #: files the model is split into, 1 if it is not
    shards: int
    #: bytes of one token in a 16-bit KV cache, 0 if unknown
    kv_bytes: int
    #: every scalar and string, by key; an array stands as its length unless it is short and numeric
    metadata: Mapping[str, Any]


def read(path: Path) -> Gguf:
    """Read and check a file. Raises NotFound, UnsupportedDocument (no GGUF) or UnreadableDocument (damaged)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise UnsupportedDocument(f"{path} is not a GGUF file: it does not begin with the letters GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, size, data)
    except FileNotFoundError:
        raise NotFound(f"there is no model file {path}") from None
    except IsADirectoryError:
        raise UnsupportedDocument(f"{path} is a directory, not a GGUF file") from None
    except (struct.error, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise UnreadableDocument(f"{path} is cut off or damaged inside its header ({error}): get it again") from None


def shard_paths(path: Path, shards: int) -> list[Path]:
    """Files of a split model, NAME-00001-of-0000N.gguf …; just `path` if it is not split."""
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if match is None or shards <= 1:
        return [path]
    return [path.with_name(f"{match[1]}-{n:05d}-of-{match[2]}.gguf") for n in range(1, shards + 1)]


class _Cursor:
    """Reads values one after another; struct.error when the file ends too early."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def skip_string(self) -> tuple[int, int]:
        length = self.scalar("Q")
        begin, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise struct.error("a text goes beyond the end of the file")
        return begin, self.at

    def string(self) -> str:
        begin, end = self.skip_string()
        return self.data[begin:end].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise struct.error(f"unknown value type {kind}")
        return self.scalar(SCALARS[kind])

    def array(self) -> Any:
        kind, length = self.scalar("I"), self.scalar("Q")
        if kind == STRING:
            for _ in range(length):
                self.skip_string()
        elif kind == ARRAY:
            for _ in range(length):
                self.array()
        elif kind in SCALARS:
            if length <= 1024:
                return [self.scalar(SCALARS[kind]) for _ in range(length)]
            self.at += length * struct.calcsize("<" + SCALARS[kind])
        else:
            raise struct.error(f"unknown array type {kind}")
        return length


def _parse(path: Path, size: int, data: mmap.mmap) -> Gguf:
    cursor = _Cursor(data)
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise UnsupportedDocument(f"{path} is GGUF version {version}; versions 2 and 3 (little-endian) can be used")
    tensors, keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {cursor.string(): cursor.value(cursor.scalar("I")) for _ in range(keys)}
    parameters, need = _tensors(cursor, tensors, int(metadata.get("general.alignment", 32)))
    if need > size:
        raise UnreadableDocument(
            f"{path} is cut off: {size:,} bytes are there, {need:,} are needed. Get it again (a pull resumes)"
        )
    architecture = str(metadata.get("general.architecture", ""))
    if not architecture:
        raise UnreadableDocument(f"{path} names no architecture (general.architecture): it is no language model")
    return Gguf(
        path=path,
        size=size,
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        context=int(metadata.get(f"{architecture}.context_length", 0)),
        chat_template=str(metadata.get("tokenizer.chat_template", "")),
        parameters=parameters,
        quantization=QUANTIZATIONS.get(int(metadata.get("general.file_type", -1)), ""),
        shards=max(1, int(metadata.get("split.count", 1))),
        kv_bytes=_kv_bytes(architecture, metadata),
        metadata=metadata,
    )


def _tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[int, int]:
    """Elements of all tensors, and the bytes the file must have."""
    parameters = last = 0
    for _ in range(count):
        cursor.skip_string()
        elements = 1
        for _ in range(cursor.scalar("I")):
            elements *= cursor.scalar("Q")
        kind, offset = cursor.scalar("I"), cursor.scalar("Q")
        block, size = BLOCKS.get(kind, (1, 0))
        parameters += elements
        last = max(last, offset + elements // block * size)
    start = -(-cursor.at // alignment) * alignment
    return parameters, start + last


def _kv_bytes(architecture: str, metadata: Mapping[str, Any]) -> int:
    """Bytes a token takes in a 16-bit KV cache: 2 * layers * KV heads * (key + value length), or the latent of MLA."""

    def number(name: str) -> int:
        value = metadata.get(f"{architecture}.{name}", 0)
        return sum(value) // max(1, len(value)) if isinstance(value, list) else int(value)

    layers, heads = number("block_count"), number("attention.head_count")
    if not layers or not heads:
        return 0
    if latent := number("attention.kv_lora_rank"):
        return 2 * layers * (latent + number("rope.dimension_count"))
    width = number("embedding_length") // heads
    lengths = (number("attention.key_length") or width) + (number("attention.value_length") or width)
    return 2 * layers * (number("attention.head_count_kv") or heads) * lengths
