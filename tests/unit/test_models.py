"""The model shelf, its registry and its GGUF reader, on files made here."""

import contextlib
import json
import os
import struct
from pathlib import Path

import pytest

from connectors import gguf
from pipelines.errors import (
    BadRequest,
    Conflict,
    ModelUnavailable,
    NotFound,
    RagError,
    UnreadableDocument,
    UnsupportedDocument,
)
from pipelines.profiles import profiles
from services import models
from services.models import STAND_IN
from services.pull import import_gguf
from services.registry import find, registered

TEMPLATE = "{{ messages }}"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key: str, value: object) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(item) for item in value)
    return text(key) + struct.pack("<II", 4, int(str(value)))


def make_gguf(path: Path, drop: str = "", **more: object) -> Path:
    """A small model file: one Q4_K tensor of 512 elements and one F32 of 8."""
    keys: dict[str, object] = {
        "general.architecture": "qwen2",
        "general.name": "Tiny R1",
        "general.file_type": 15,
        "qwen2.context_length": 4096,
        "qwen2.block_count": 2,
        "qwen2.embedding_length": 64,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["a"] * 2000,
        "tokenizer.chat_template": TEMPLATE,
    } | {key.replace("__", "."): value for key, value in more.items()}
    keys.pop(drop, None)
    tensors = text("w") + struct.pack("<IQIQ", 1, 512, 12, 0) + text("b") + struct.pack("<IQIQ", 1, 8, 0, 288)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, len(keys)) + b"".join(pair(*item) for item in keys.items()) + tensors
    path.write_bytes(head + b"\0" * (-len(head) % 32) + bytes(range(256)) + b"\0" * 32 + b"\1" * 32)
    return path


def test_a_header_is_read(tmp_path: Path) -> None:
    model = gguf.read(make_gguf(tmp_path / "m.gguf"))
    assert (model.architecture, model.name, model.context, model.quantization) == ("qwen2", "Tiny R1", 4096, "Q4_K_M")
    assert (model.parameters, model.shards, model.chat_template) == (520, 1, TEMPLATE)
    assert model.kv_bytes == 2 * 2 * 2 * (16 + 16), "bytes * layers * KV heads * (key + value length)"
    assert model.metadata["tokenizer.ggml.tokens"] == 2000


def test_kv_cache_figures_of_real_models(tmp_path: Path) -> None:
    """R1-Distill-Qwen-7B: 57,344 bytes a token in 16 bits (28 layers, 4 KV heads of 128)."""
    seven = {"qwen2__block_count": 28, "qwen2__embedding_length": 3584}
    heads = {"qwen2__attention__head_count": 28, "qwen2__attention__head_count_kv": 4}
    assert gguf.read(make_gguf(tmp_path / "m.gguf", **seven, **heads)).kv_bytes == 57_344


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    whole = make_gguf(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole), 1009), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises((UnreadableDocument, UnsupportedDocument)):
            gguf.read(cut)


@pytest.mark.parametrize("at", range(4, 120, 3))
def test_a_damaged_header_is_an_error_of_ours(tmp_path: Path, at: int) -> None:
    data = bytearray(make_gguf(tmp_path / "m.gguf").read_bytes())
    data[at] = 0xFF
    (tmp_path / "m.gguf").write_bytes(data)
    with contextlib.suppress(RagError):  # nothing else may come out
        gguf.read(tmp_path / "m.gguf")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>please log in</html>")
    for path, error in ((tmp_path / "page.gguf", UnsupportedDocument), (tmp_path / "none", NotFound)):
        with pytest.raises(error):
            gguf.read(path)
    with pytest.raises(UnsupportedDocument):
        gguf.read(tmp_path)


def test_names_of_split_files() -> None:
    names = [path.name for path in gguf.shard_paths(Path("m-Q8_0-00001-of-00003.gguf"), 3)]
    assert names == [f"m-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert gguf.shard_paths(Path("m.gguf"), 1) == [Path("m.gguf")]


def test_the_registry_is_complete() -> None:
    assert [model.id for model in registered()] == [
        f"deepseek-r1:{size}" for size in ("1.5b", "7b", "8b", "8b-0528", "14b", "32b", "70b")
    ]
    for model in registered():
        assert model.profile in profiles()
        assert model.licence
        for name, quantization in model.quantizations.items():
            assert all(name in file and file.endswith(".gguf") for file in quantization.files)
            bits = quantization.bytes * 8 / model.parameters
            assert (
                {"Q4_K_M": 4.8, "Q6_K": 6.5, "Q8_0": 8.4}[name] < bits < {"Q4_K_M": 5.1, "Q6_K": 6.7, "Q8_0": 8.7}[name]
            )


def test_names_of_quantisations() -> None:
    assert find("deepseek-r1:7b")[1] == "Q4_K_M"
    assert find("DeepSeek-R1:7b-q4_k_m")[0].tag("Q4_K_M") == "deepseek-r1:7b"
    assert len(find("deepseek-r1:70b-q8_0")[0].quantizations["Q8_0"].files) == 2
    with pytest.raises(BadRequest, match=r"deepseek-r1:1\.5b, .*import FILE"):
        find("gpt-4")


def test_the_stand_in_answers_until_something_is_chosen(tmp_path: Path) -> None:
    model = models.chosen(tmp_path)
    assert (model.id, model.stand_in, model.profile_name) == ("smollm2-135m-stand-in", True, "stand-in")
    assert model.path.exists()
    assert "stand-in" in models.stand_in().name
    assert [entry.id for entry in models.list_models(tmp_path)] == [STAND_IN]


@pytest.mark.parametrize("link", [False, True])
async def test_import_use_and_remove(tmp_path: Path, link: bool) -> None:
    source = make_gguf(tmp_path / "carried.gguf")
    model = await import_gguf(tmp_path, source, link=link)
    assert (model.id, model.context, model.verified, len(model.sha256[0])) == ("tiny-r1", 4096, False, 64)
    assert models.chosen(tmp_path).id == "tiny-r1", "a first real model takes the stand-in's place"
    path = models.chosen(tmp_path).path
    assert path.read_bytes() == source.read_bytes()
    assert (path == source) is link
    with pytest.raises(Conflict, match="in use"):
        models.remove(tmp_path, "tiny-r1")
    await import_gguf(tmp_path, source, "other:v1")
    assert models.chosen(tmp_path).id == "tiny-r1", "a second one does not"
    assert models.use(tmp_path, "other:v1").id == "other:v1"
    models.remove(tmp_path, "tiny-r1")
    assert [entry.id for entry in models.list_models(tmp_path)] == ["other:v1", STAND_IN]
    assert source.exists()


async def test_a_split_model_is_imported_whole(tmp_path: Path) -> None:
    first = make_gguf(tmp_path / "m-00001-of-00002.gguf", split__count=2)
    with pytest.raises(NotFound, match="m-00002-of-00002"):
        await import_gguf(tmp_path / "data", first)
    make_gguf(tmp_path / "m-00002-of-00002.gguf", split__count=2)
    model = await import_gguf(tmp_path / "data", first)
    assert model.files == ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert model.parameters == 2 * 520
    assert models.chosen(tmp_path / "data").path.with_name(model.files[1]).exists()


async def test_a_registered_name_brings_its_profile(tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "carried.gguf")
    model = await import_gguf(tmp_path, source, "deepseek-r1:7b")
    assert (model.profile, model.name) == ("r1-distill", "DeepSeek-R1-Distill-Qwen-7B")
    assert models.chosen(tmp_path).profile_name == "r1-distill"
    with pytest.raises(BadRequest, match="architecture qwen2"):
        await import_gguf(tmp_path, source, "deepseek-r1:8b")


async def test_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDocument, match="base model"):
        await import_gguf(tmp_path, make_gguf(tmp_path / "base.gguf", drop="tokenizer.chat_template"))
    with pytest.raises(BadRequest, match="no model name"):
        await import_gguf(tmp_path, make_gguf(tmp_path / "m.gguf"), "../../etc")
    await import_gguf(tmp_path, tmp_path / "m.gguf", "mine")
    for taken in ("mine", STAND_IN):
        with pytest.raises(Conflict, match="--as"):
            await import_gguf(tmp_path, tmp_path / "m.gguf", taken)


async def test_a_choice_is_seen_by_its_time(tmp_path: Path) -> None:
    await import_gguf(tmp_path, make_gguf(tmp_path / "m.gguf"), "mine")
    choice = tmp_path / "models" / "chosen.json"
    os.utime(choice, ns=(1, 1))
    models.use(tmp_path, STAND_IN)
    assert choice.stat().st_mtime_ns > 1
    assert json.loads(choice.read_text()) == {"id": STAND_IN}
    assert [path.name for path in choice.parent.iterdir() if path.is_file()] == ["chosen.json"], "no draft is left"


async def test_errors_name_the_cause_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"There: {STAND_IN}"):
        models.use(tmp_path, "deepseek-r1:7b")
    with pytest.raises(Conflict, match="part of the installation"):
        models.remove(tmp_path, STAND_IN)
    with pytest.raises(NotFound):
        models.remove(tmp_path, "nothing")
    choice = tmp_path / "models" / "chosen.json"
    choice.parent.mkdir()
    choice.write_text('{"id": "gone"}')
    with pytest.raises(ModelUnavailable, match="deepwell models use"):
        models.chosen(tmp_path)
    choice.write_text("{")
    with pytest.raises(ModelUnavailable, match="damaged"):
        models.chosen(tmp_path)
